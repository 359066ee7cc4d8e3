//! WebSockets: what passes between a client and a function, once both have left HTTP.
//!
//! The node copies bytes and takes no message apart. It follows the heads of the frames (RFC 6455 section 5.2) to know where
//! a Close frame of its own may stand: when the node stops, when the function's version is no longer live, and when the
//! function's process is gone. A stream that is no WebSocket is copied too, and ends without one.
//!
//! There is no bound on how long a WebSocket may stay open or idle. Deno pings a client that is silent for 30 s and closes
//! when nothing comes back (`idleTimeout` of `Deno.upgradeWebSocket`), and the kernel notices a client that has vanished.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Sleep, sleep},
};
use tokio_util::io::poll_read_buf;

/// Bytes of one direction that wait for their reader. While there are any, no more are read; while there are none, the
/// buffer is not there, so that an idle WebSocket costs no memory for it.
const PIECE_BYTES: usize = 16 << 10;

/// How long both sides may take to end, once one of them has or the node has said goodbye: a round trip on bad networks.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why the node ends a WebSocket (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;
const INTERNAL_ERROR: u16 = 1011;

/// How a WebSocket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The client or the function closed it, as the protocol has it.
    Closed,
    /// The client's connection broke off.
    ClientLeft,
    /// The function's end broke off: its process died, or closed the connection without a word.
    GuestLeft,
    /// The node closed it, since `going_away` said so.
    GoingAway,
}

/// Copies between a client and a function until either of them is done, or until `going_away`: then both are told to close,
/// and have [`GOODBYE`] for it. Dropping the future cuts both connections.
pub(crate) async fn tunnel(client: Upgraded, guest: Upgraded, going_away: impl Future<Output = ()>) -> Ended {
    join(TokioIo::new(client), TokioIo::new(guest), Some(INTERNAL_ERROR), going_away).await
}

/// Copies between a function that is the client and another host, until either of them is done. The node adds nothing.
pub(crate) async fn copy(function: Upgraded, host: Upgraded) -> Ended {
    join(TokioIo::new(function), TokioIo::new(host), None, pending()).await
}

/// `if_broken_off`: what the client is told when the guest's connection ends without a Close frame.
async fn join<C, G>(
    mut client: C,
    mut guest: G,
    if_broken_off: Option<u16>,
    going_away: impl Future<Output = ()>,
) -> Ended
where
    C: AsyncRead + AsyncWrite + Unpin,
    G: AsyncRead + AsyncWrite + Unpin,
{
    let mut going_away = pin!(going_away);
    let mut is_leaving = false;
    let mut first = None;
    let mut deadline: Option<Pin<Box<Sleep>>> = None;
    // To the function the node is a client, and clients mask what they send.
    let (mut up, mut down) = (Lane::new(true, None), Lane::new(false, if_broken_off));
    poll_fn(|cx| {
        if !is_leaving && going_away.as_mut().poll(cx).is_ready() {
            is_leaving = true;
            // Where one side has closed already, the other one is about to.
            if !up.frames.closed && !down.frames.closed {
                (up.goodbye, down.goodbye) = (Some(GOING_AWAY), Some(GOING_AWAY));
            }
        }
        let over = (up.poll(cx, &mut client, &mut guest), down.poll(cx, &mut guest, &mut client));
        if first.is_none() && (up.ended || down.ended) {
            first = Some(if up.ended { Ended::ClientLeft } else { Ended::GuestLeft });
        }
        if let (Poll::Ready(()), Poll::Ready(())) = over {
            return Poll::Ready(());
        }
        if is_leaving || first.is_some() {
            return deadline.get_or_insert_with(|| Box::pin(sleep(GOODBYE))).as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await;
    if is_leaving {
        return Ended::GoingAway;
    }
    if up.frames.closed || down.frames.closed { Ended::Closed } else { first.unwrap_or(Ended::Closed) }
}

/// One direction.
struct Lane {
    /// What has been passed on.
    frames: Frames,
    /// Read, and not passed on yet.
    held: BytesMut,
    /// The node closes this direction at the next frame, for this reason.
    goodbye: Option<u16>,
    /// What becomes the reason when the sender breaks off without a Close frame.
    if_broken_off: Option<u16>,
    /// What is left of the node's own Close frame.
    own: BytesMut,
    /// The node has closed this direction. It only looks for the sender's own Close frame now.
    is_closed: bool,
    /// The sender will send no more, or nobody takes it.
    ended: bool,
    is_over: bool,
}

impl Lane {
    fn new(is_masked: bool, if_broken_off: Option<u16>) -> Self {
        Self {
            frames: Frames::new(is_masked),
            held: BytesMut::new(),
            goodbye: None,
            if_broken_off,
            own: BytesMut::new(),
            is_closed: false,
            ended: false,
            is_over: false,
        }
    }

    /// Passes on what there is. Ready when this direction is over.
    fn poll<F, T>(&mut self, cx: &mut Context<'_>, from: &mut F, to: &mut T) -> Poll<()>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        if !self.is_over {
            // Whoever cannot be written to is gone.
            let _: io::Result<()> = ready!(self.pass_on(cx, from, to));
            (self.ended, self.is_over) = (true, true);
        }
        Poll::Ready(())
    }

    // The budget that tokio gives each task bounds this loop.
    fn pass_on<F, T>(&mut self, cx: &mut Context<'_>, from: &mut F, to: &mut T) -> Poll<io::Result<()>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            if !self.own.is_empty() {
                let written = ready!(write(cx, to, &self.own))?;
                self.own.advance(written);
                continue;
            }
            if self.is_closed {
                self.frames.pass(&self.held);
                self.held.clear();
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                if self.ended {
                    return Pin::new(&mut *to).poll_shutdown(cx);
                }
                if self.frames.closed || self.frames.broken {
                    return Poll::Ready(Ok(()));
                }
            } else if let Some(reason) = self.goodbye
                && (self.frames.rest() == 0 || (self.held.is_empty() && self.ended))
            {
                self.own = self.frames.close(reason);
                self.is_closed = true;
                continue;
            } else if !self.held.is_empty() {
                let most = if self.goodbye.is_some() { self.frames.rest() } else { u64::MAX };
                let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.held.len());
                let written = ready!(write(cx, to, self.held.get(..most).unwrap_or_default()))?;
                self.frames.pass(&self.held.split_to(written));
                continue;
            } else if self.ended {
                return Pin::new(&mut *to).poll_shutdown(cx);
            }
            self.held.reserve(PIECE_BYTES);
            match poll_read_buf(Pin::new(&mut *from), cx, &mut self.held) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.ended = true;
                    if !self.frames.closed {
                        self.goodbye = self.goodbye.or(self.if_broken_off);
                    }
                }
                Poll::Pending => {
                    self.held = BytesMut::new();
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
    }
}

fn write<T: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut T, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

/// Where one direction of a WebSocket stands: the heads of its frames, and how much is left of the current one.
#[derive(Debug)]
struct Frames {
    /// Whether the sender masks its frames: clients do, servers do not.
    is_masked: bool,
    /// The head of the current frame without its mask, as far as it has come.
    head: [u8; 10],
    /// How much of the head has come, with its mask.
    head_bytes: usize,
    /// What is to come of the frame whose head is there.
    payload_bytes: u64,
    /// A Close frame has passed; nothing follows it.
    closed: bool,
    /// This is no WebSocket.
    broken: bool,
}

const CLOSE: u8 = 8;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

impl Frames {
    fn new(is_masked: bool) -> Self {
        Self { is_masked, head: [0; 10], head_bytes: 0, payload_bytes: 0, closed: false, broken: false }
    }

    /// These bytes have come.
    fn pass(&mut self, mut bytes: &[u8]) {
        while !self.closed && !self.broken {
            let whole = self.head_bytes > 1 && self.head_bytes == self.whole_head_bytes();
            if whole && self.payload_bytes <= bytes.len() as u64 {
                bytes = usize::try_from(self.payload_bytes).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                self.closed = self.opcode() == CLOSE;
                (self.head_bytes, self.payload_bytes) = (0, 0);
            } else if whole {
                self.payload_bytes -= bytes.len() as u64;
                return;
            } else if let Some((byte, rest)) = bytes.split_first() {
                bytes = rest;
                self.pass_head(*byte);
            } else {
                return;
            }
        }
    }

    fn pass_head(&mut self, byte: u8) {
        // Of what does not fit, the mask, only the length counts.
        if let Some(place) = self.head.get_mut(self.head_bytes) {
            *place = byte;
        }
        self.head_bytes += 1;
        if self.head_bytes < 2 || self.head_bytes < self.whole_head_bytes() {
            return;
        }
        let [first, second, long @ ..] = self.head;
        let [a, b, ..] = long;
        self.payload_bytes = match second & !MASKED {
            126 => u16::from_be_bytes([a, b]).into(),
            127 => u64::from_be_bytes(long),
            short => short.into(),
        };
        let is_control = self.opcode() >= CLOSE;
        self.broken = (second & MASKED != 0) != self.is_masked
            || self.payload_bytes > i64::MAX as u64
            || (is_control && (self.payload_bytes > 125 || first & FIN == 0));
    }

    fn opcode(&self) -> u8 {
        let [first, ..] = self.head;
        first & 0x0f
    }

    /// The length of the current head, once its second byte has come.
    fn whole_head_bytes(&self) -> usize {
        let [_, second, ..] = self.head;
        let length = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & MASKED == 0 { 0 } else { 4 }
    }

    /// How many bytes certainly belong to the current frame: 0 between two frames, where a frame of one's own may stand.
    fn rest(&self) -> u64 {
        if self.broken {
            return 0;
        }
        match self.head_bytes {
            0 => 0,
            1 => 1,
            come if come < self.whole_head_bytes() => (self.whole_head_bytes() - come) as u64,
            _ => self.payload_bytes,
        }
    }

    /// A Close frame to put in here; empty where none may stand.
    fn close(&self, reason: u16) -> BytesMut {
        if self.closed || self.broken || self.rest() != 0 {
            return BytesMut::new();
        }
        let [high, low] = reason.to_be_bytes();
        if !self.is_masked {
            return BytesMut::from(&[FIN | CLOSE, 2, high, low][..]);
        }
        // A mask keeps those who choose the payload from choosing the bytes; here nobody chooses.
        let [a, b, c, d] = getrandom::u32().unwrap_or_default().to_be_bytes();
        BytesMut::from(&[FIN | CLOSE, MASKED | 2, a, b, c, d, high ^ a, low ^ b][..])
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        sync::oneshot,
        task::JoinHandle,
        time::Instant,
    };

    use super::*;

    /// A frame with `length` bytes of payload.
    fn frame(first: u8, mask: Option<[u8; 4]>, length: usize) -> Vec<u8> {
        let bit = if mask.is_some() { MASKED } else { 0 };
        let mut frame = vec![first];
        match length {
            ..126 => frame.push(bit | u8::try_from(length).unwrap()),
            126..65536 => {
                frame.push(bit | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(bit | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
        // Looks like heads where somebody loses count.
        frame.resize(frame.len() + length, 0x88);
        frame
    }

    const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

    #[test]
    fn heads_are_followed_however_they_are_cut() {
        for mask in [None, MASK] {
            for length in [0, 1, 125, 126, 127, 300, 65535, 65536, 70_000] {
                let bytes = frame(0x82, mask, length);
                for piece in [1, 2, 3, 7, 4096, bytes.len()] {
                    let mut frames = Frames::new(mask.is_some());
                    let mut come = 0;
                    for part in bytes.chunks(piece) {
                        frames.pass(part);
                        come += part.len();
                        let rest = frames.rest();
                        assert!(rest <= (bytes.len() - come) as u64, "{mask:?} {length} {piece}");
                        assert_eq!(rest == 0, come == bytes.len(), "{mask:?} {length} {piece}: {come}");
                    }
                    // Two in one piece.
                    frames.pass(&[&bytes[..], &bytes[..]].concat());
                    assert!(frames.rest() == 0 && !frames.closed && !frames.broken, "{mask:?} {length} {piece}");
                    frames.pass(&frame(0x88, mask, 2));
                    assert!(frames.closed, "{mask:?} {length} {piece}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_websocket_is_seen() {
        for (what, is_masked, bytes, expected) in [
            ("a text", true, frame(0x81, MASK, 5), false),
            ("a part of one", true, frame(0x01, MASK, 5), false),
            ("a compressed text", true, frame(0xc1, MASK, 5), false),
            ("a ping", true, frame(0x89, MASK, 125), false),
            ("a client's frame without a mask", true, frame(0x81, None, 5), true),
            ("a server's frame with one", false, frame(0x81, MASK, 5), true),
            ("a long ping", false, frame(0x89, None, 126), true),
            ("a part of a ping", false, frame(0x09, None, 1), true),
            ("a length beyond 63 bits", false, [&[0x82, 127][..], &[0xff; 8]].concat(), true),
            ("HTTP", true, b"GET / HTTP/1.1\r\n".to_vec(), true),
        ] {
            let mut frames = Frames::new(is_masked);
            frames.pass(&bytes);
            assert_eq!(frames.broken, expected, "{what}");
            assert_eq!(frames.close(1001).is_empty(), expected, "{what}");
        }
    }

    /// A client, a function, and the node between them.
    struct Both {
        client: DuplexStream,
        guest: DuplexStream,
        go_away: oneshot::Sender<()>,
        ended: JoinHandle<Ended>,
    }

    fn both(buffer_bytes: usize) -> Both {
        let (client, client_side) = duplex(buffer_bytes);
        let (guest, guest_side) = duplex(buffer_bytes);
        let (go_away, told) = oneshot::channel::<()>();
        let going_away = async move {
            if told.await.is_err() {
                pending::<()>().await;
            }
        };
        let ended = tokio::spawn(join(client_side, guest_side, Some(INTERNAL_ERROR), going_away));
        Both { client, guest, go_away, ended }
    }

    async fn read(stream: &mut DuplexStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn read_all(stream: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    /// The status of a masked Close frame of the node's.
    fn unmask(frame: &[u8]) -> u16 {
        let [0x88, 0x82, a, b, _, _, high, low] = *frame else { panic!("{frame:x?}") };
        u16::from_be_bytes([high ^ a, low ^ b])
    }

    const AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];
    const BROKEN: [u8; 4] = [0x88, 2, 0x03, 0xf3];

    #[tokio::test(start_paused = true)]
    async fn frames_pass_both_ways_and_a_close_ends_it() {
        let Both { mut client, mut guest, ended, go_away: _go_away } = both(64 << 10);
        let (asked, said) = (frame(0x82, MASK, 1000), frame(0x82, None, 70_000));
        client.write_all(&asked).await.unwrap();
        assert_eq!(read(&mut guest, asked.len()).await, asked);
        let (written, got) = tokio::join!(guest.write_all(&said), read(&mut client, said.len()));
        written.unwrap();
        assert_eq!(got, said);
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        client.write_all(&frame(0x88, MASK, 2)).await.unwrap();
        read(&mut guest, 8).await;
        guest.write_all(&frame(0x88, None, 2)).await.unwrap();
        drop(guest);
        assert_eq!(read_all(&mut client).await, frame(0x88, None, 2));
        drop(client);
        assert_eq!(ended.await.unwrap(), Ended::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_that_nobody_takes() {
        let Both { mut client, mut guest, ended, go_away: _go_away } = both(64);
        let message = frame(0x82, MASK, 1 << 20);
        let mut taken = 0;
        while let Ok(Ok(written)) =
            tokio::time::timeout(Duration::from_secs(1), client.write(message.get(taken..).unwrap())).await
        {
            taken += written;
        }
        assert!(taken <= PIECE_BYTES + 128, "{taken}");
        let rest = message.get(taken..).unwrap();
        let (written, got) = tokio::join!(client.write_all(rest), read(&mut guest, message.len()));
        written.unwrap();
        assert_eq!(got, message);
        ended.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn both_sides_are_told_that_the_node_goes_away() {
        let Both { mut client, mut guest, ended, go_away } = both(1024);
        go_away.send(()).unwrap();
        assert_eq!(read(&mut client, 4).await, AWAY);
        assert_eq!(unmask(&read(&mut guest, 8).await), 1001);
        // What is said after the Close goes nowhere, and their answers end it.
        client.write_all(&[frame(0x81, MASK, 5), frame(0x88, MASK, 2)].concat()).await.unwrap();
        guest.write_all(&[frame(0x81, None, 5), frame(0x88, None, 2)].concat()).await.unwrap();
        let began = Instant::now();
        assert_eq!(ended.await.unwrap(), Ended::GoingAway);
        assert!(began.elapsed() < GOODBYE);
        assert_eq!(read_all(&mut client).await, b"");
        assert_eq!(read_all(&mut guest).await, b"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_is_under_way_is_finished_first() {
        let Both { mut client, mut guest, ended, go_away } = both(1024);
        let (asked, said) = (frame(0x81, MASK, 300), frame(0x81, None, 500));
        // The head alone, and even less than that.
        guest.write_all(said.get(..3).unwrap()).await.unwrap();
        client.write_all(asked.get(..1).unwrap()).await.unwrap();
        read(&mut client, 3).await;
        read(&mut guest, 1).await;
        go_away.send(()).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = frame(0x81, None, 9);
        guest.write_all(&[said.get(3..).unwrap(), &next].concat()).await.unwrap();
        assert_eq!(read(&mut client, said.len() - 3 + 4).await, [said.get(3..).unwrap(), &AWAY].concat());
        client.write_all(&[asked.get(1..).unwrap(), &frame(0x88, MASK, 2)].concat()).await.unwrap();
        read(&mut guest, asked.len() - 1).await;
        assert_eq!(unmask(&read(&mut guest, 8).await), 1001);
        // The function does not answer.
        let began = Instant::now();
        assert_eq!(ended.await.unwrap(), Ended::GoingAway);
        assert!(began.elapsed() <= GOODBYE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_no_websocket_gets_no_frame() {
        let Both { mut client, mut guest, ended, go_away } = both(1024);
        guest.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(read(&mut client, 19).await, b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(read(&mut guest, 18).await, b"GET / HTTP/1.1\r\n\r\n");
        go_away.send(()).unwrap();
        assert_eq!(ended.await.unwrap(), Ended::GoingAway);
        assert_eq!((read_all(&mut client).await, read_all(&mut guest).await), (vec![], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_breaks_off_ends_both() {
        // The function's process dies between two frames, in the middle of one, and after a Close.
        for (said, more, expected) in [
            (frame(0x81, None, 5), &BROKEN[..], Ended::GuestLeft),
            (frame(0x81, None, 5).get(..4).unwrap().to_vec(), &[], Ended::GuestLeft),
            (frame(0x88, None, 2), &[], Ended::Closed),
        ] {
            let Both { mut client, mut guest, ended, go_away: _go_away } = both(1024);
            guest.write_all(&said).await.unwrap();
            drop(guest);
            assert_eq!(read_all(&mut client).await, [&said[..], more].concat());
            assert_eq!(ended.await.unwrap(), expected);
        }
        let Both { client, mut guest, ended, go_away: _go_away } = both(1024);
        drop(client);
        assert_eq!(read_all(&mut guest).await, b"");
        drop(guest);
        assert_eq!(ended.await.unwrap(), Ended::ClientLeft);
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_that_is_under_way_is_left_alone_when_the_node_goes_away() {
        let Both { mut client, mut guest, ended, go_away } = both(1024);
        let (close, answer) = (frame(0x88, MASK, 2), frame(0x88, None, 2));
        client.write_all(&close).await.unwrap();
        assert_eq!(read(&mut guest, close.len()).await, close);
        go_away.send(()).unwrap();
        guest.write_all(&answer).await.unwrap();
        drop(guest);
        assert_eq!(read_all(&mut client).await, answer);
        drop(client);
        assert_eq!(ended.await.unwrap(), Ended::GoingAway);
    }
}

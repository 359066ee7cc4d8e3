//! The frames on the socket of the data services, and how many bytes of them are in memory.

use std::{io, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};
use minnow_store::kv::MAX_VALUE_BYTES;
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// The longest frame, in bytes: the largest value of a key, with room for its head. `bootstrap/data.js` knows it too.
pub(super) const MAX_FRAME_BYTES: usize = MAX_VALUE_BYTES + (1 << 20);

/// A frame from the process, which is in memory until it is dropped.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) head: Bytes,
    pub(super) payload: Bytes,
    _memory: OwnedSemaphorePermit,
}

impl Question {
    /// Reads the next one, once `memory` has room for it. Its end in between is an error, and so is a frame that is too long.
    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), memory: &Arc<Semaphore>) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let length = from.read_u32_le().await?;
        let wanted = usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME_BYTES);
        let wanted = wanted.ok_or_else(|| invalid("a frame is too long"))?;
        let held = Arc::clone(memory).acquire_many_owned(length).await.map_err(io::Error::other)?;
        let mut frame = BytesMut::with_capacity(wanted);
        let mut rest = from.take(u64::from(length));
        while frame.len() < wanted {
            if rest.read_buf(&mut frame).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut frame = frame.freeze();
        let head_bytes = frame.try_get_u32_le().map_err(|_| invalid("a frame has no head"))? as usize;
        if head_bytes > frame.len() {
            return Err(invalid("a head is longer than its frame"));
        }
        let head = frame.split_to(head_bytes);
        Ok(Self { head, payload: frame, _memory: held })
    }
}

/// A frame to the process.
pub(super) struct Reply {
    /// With the two lengths before it.
    head: Vec<u8>,
    payload: Vec<Bytes>,
}

impl Reply {
    /// `None`: it would be too long.
    pub(super) fn new(id: u64, answer: &impl Serialize, payload: Vec<Bytes>) -> Option<Self> {
        let payload_bytes = payload.iter().map(Bytes::len).sum();
        let left = MAX_FRAME_BYTES.checked_sub(4)?.checked_sub(payload_bytes)?;
        let mut head = Bounded { bytes: vec![0; 8], left };
        serde_json::to_writer(&mut head, &(id, answer)).ok()?;
        let mut head = head.bytes;
        let head_bytes = head.len() - 8;
        let lengths = [4 + head_bytes + payload_bytes, head_bytes];
        for (place, length) in head.chunks_exact_mut(4).zip(lengths) {
            place.copy_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
        }
        Some(Self { head, payload })
    }

    pub(super) fn bytes(&self) -> usize {
        self.head.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }

    pub(super) async fn write(self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        to.write_all(&self.head).await?;
        for bytes in self.payload {
            to.write_all(&bytes).await?;
        }
        Ok(())
    }
}

/// Takes no more bytes than there is room for. JSON may be six times as long as what it is made of.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn frame(head: &[u8], payload: &[u8]) -> Vec<u8> {
        let length = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
        [&length(4 + head.len() + payload.len())[..], &length(head.len())[..], head, payload].concat()
    }

    async fn read(mut bytes: &[u8], memory: &Arc<Semaphore>) -> io::Result<Question> {
        Question::read(&mut bytes, memory).await
    }

    #[tokio::test]
    async fn a_frame_is_read_when_there_is_room_for_it() {
        let memory = Arc::new(Semaphore::new(20));
        let bytes = frame(b"head", b"payload");
        let first = read(&bytes, &memory).await.unwrap();
        assert_eq!((&first.head[..], &first.payload[..]), (&b"head"[..], &b"payload"[..]));
        let mut second = Box::pin(read(&bytes, &memory));
        assert!((&mut second).now_or_never().is_none(), "15 of 20 bytes are held");
        drop(first);
        assert_eq!(second.await.unwrap().payload, "payload");
        assert_eq!(memory.available_permits(), 20);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        let memory = Arc::new(Semaphore::new(MAX_FRAME_BYTES));
        let too_long = u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_le_bytes();
        let whole = frame(b"head", b"");
        let head_too_long = [7, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3];
        let bad: [&[u8]; 6] = [b"", &too_long, &whole[..3], &whole[..10], &[2, 0, 0, 0, 1, 1], &head_too_long];
        for bytes in bad {
            assert!(read(bytes, &memory).await.is_err(), "{bytes:?}");
        }
        assert_eq!(memory.available_permits(), MAX_FRAME_BYTES);
    }

    #[tokio::test]
    async fn a_reply_is_no_longer_than_a_frame() {
        let mut written = Vec::new();
        let reply = Reply::new(7, &"x", vec!["ab".into(), "c".into()]).unwrap();
        let bytes = reply.bytes();
        reply.write(&mut written).await.unwrap();
        assert_eq!((written.len(), written), (bytes, frame(br#"[7,"x"]"#, b"abc")));

        // Six bytes each in JSON.
        let text = "\u{1}".repeat(MAX_FRAME_BYTES / 6 + 1);
        assert!(Reply::new(1, &text, Vec::new()).is_none());
        let room = MAX_FRAME_BYTES - 4 - r#"[1,"x"]"#.len();
        assert_eq!(Reply::new(1, &"x", vec![vec![0; room].into()]).unwrap().bytes(), 4 + MAX_FRAME_BYTES);
        assert!(Reply::new(1, &"x", vec![vec![0; room + 1].into()]).is_none());
    }
}

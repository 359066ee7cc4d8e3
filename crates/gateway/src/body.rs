//! Request bodies on their way to a function, and response bodies on their way to the client.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use minnow_model::Code;
use minnow_runtime::{Body, BodyError, data::Granted};
use minnow_store::{BucketError, bucket::Content as BlobContent};
use tokio::fs::File;

use crate::{
    config::FILE_PIECE_BYTES,
    connection::{Connection, InFlight},
    files::OpenFile,
    span::ServerSpan,
};

/// The body of a request that has none. Of size zero, so boxing it allocates nothing.
pub(crate) struct NoBody;

impl HttpBody for NoBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

/// A request body, cut off with an error where it gets longer than the function takes.
pub(crate) struct RequestBody {
    incoming: Incoming,
    limit_bytes: u64,
    left_bytes: u64,
    exceeded: bool,
    connection: Arc<Connection>,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, limit_bytes: u64, connection: Arc<Connection>) -> Self {
        Self { incoming, limit_bytes, left_bytes: limit_bytes, exceeded: false, connection }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.exceeded {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Poll::Ready(Some(Err(BodyError::Disconnected))),
            None => {
                self.connection.request_was_read();
                return Poll::Ready(None);
            }
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left_bytes.checked_sub(length) {
            Some(left) => self.left_bytes = left,
            None => {
                self.exceeded = true;
                return Poll::Ready(Some(Err(BodyError::TooLarge(self.limit_bytes))));
            }
        }
        if self.incoming.is_end_stream() {
            self.connection.request_was_read();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error(transparent)]
    Function(BodyError),
    #[error("a static file cannot be read")]
    File(#[from] io::Error),
    #[error("a blob cannot be read")]
    Blob(#[from] BucketError),
}

/// The body of a response. The request counts as running until this is dropped, and dropping a function's body before its
/// end cancels the invocation.
pub(crate) struct ResponseBody {
    content: Content,
    /// Why the response breaks off, once what came before it had its chance to be sent.
    failed: Option<ResponseError>,
    in_flight: InFlight,
    /// Pieces that hyper took.
    taken: u64,
    span: Option<Box<ServerSpan>>,
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.offer(false);
    }
}

/// Where the bytes of a response come from.
pub(crate) enum Content {
    Empty,
    Bytes(Bytes),
    Function {
        body: Body,
        /// Whether the body's own length may be believed. hyper trusts it over the `content-length` that the function
        /// set; where the two differ, the next response on the connection would be read in the wrong place. Without a
        /// length from the body, hyper holds it to the header.
        sized: bool,
    },
    File(FileBody),
    Blob(BlobBody),
}

impl ResponseBody {
    pub(crate) fn new(content: Content, in_flight: InFlight, span: Option<Box<ServerSpan>>) -> Self {
        Self { content, failed: None, in_flight, taken: 0, span }
    }

    /// Notes whether it is now for the client to take what there is.
    fn offer(&mut self, waits: bool) {
        self.taken += 1;
        match self.in_flight.stream() {
            Some(stream) => stream.offer(if waits { self.taken } else { 0 }),
            None => self.in_flight.connection().offer(waits),
        }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = match &mut self.content {
            Content::Empty => Poll::Ready(None),
            Content::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                self.content = Content::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Content::Function { body, .. } => Pin::new(body).poll_frame(context).map_err(ResponseError::Function),
            Content::File(file) => file.poll_piece(context),
            Content::Blob(blob) => blob.poll_piece(context),
        };
        if let Poll::Ready(Some(Err(error))) = polled {
            // hyper throws away what it has not sent yet when a body fails: let it send that first, and ask again.
            self.failed = Some(error);
            if let Some(span) = &mut self.span {
                span.set_error(Code::Internal);
            }
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Not asked again until there is room: hyper waits for the client.
        self.offer(matches!(polled, Poll::Ready(Some(_))));
        match (polled, self.in_flight.stream()) {
            (Poll::Ready(Some(Ok(frame))), Some(stream)) => {
                Poll::Ready(Some(Ok(frame.map_data(|piece| stream.send(piece)))))
            }
            (polled, _) => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Bytes(bytes) => bytes.is_empty(),
            Content::Function { body, .. } => body.is_end_stream(),
            Content::File(file) => file.left_bytes == 0,
            Content::Blob(blob) => blob.left_bytes == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Function { body, sized: true } => body.size_hint(),
            Content::Function { sized: false, .. } => SizeHint::default(),
            Content::File(file) => SizeHint::with_exact(file.left_bytes),
            Content::Blob(blob) => SizeHint::with_exact(blob.left_bytes),
        }
    }
}

/// Part of a file, read on the runtime's threads for blocking work, one piece ahead of the client.
pub(crate) struct FileBody {
    file: File,
    _held: OpenFile,
    piece: BytesMut,
    left_bytes: u64,
}

impl FileBody {
    /// The next `length_bytes` of `file`.
    pub(crate) fn new(mut file: File, held: OpenFile, length_bytes: u64) -> Self {
        file.set_max_buf_size(FILE_PIECE_BYTES);
        Self { file, _held: held, piece: BytesMut::new(), left_bytes: length_bytes }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        if self.left_bytes == 0 {
            return Poll::Ready(None);
        }
        self.piece.reserve(FILE_PIECE_BYTES);
        let read = tokio_util::io::poll_read_buf(Pin::new(&mut self.file), context, &mut self.piece);
        match ready!(read) {
            // The blob was checked when it was stored: the disk lost some of it.
            Ok(0) => Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))),
            Ok(_) => {
                let wanted = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(self.piece.len());
                let piece = self.piece.split_to(wanted);
                self.left_bytes -= wanted as u64;
                Poll::Ready(Some(Ok(Frame::data(piece.freeze()))))
            }
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }
}

/// Part of a blob, read one piece ahead of the client.
pub(crate) struct BlobBody {
    pieces: BoxStream<'static, Result<Bytes, BucketError>>,
    /// What is left of the piece that was read last.
    piece: Bytes,
    left_bytes: u64,
    _held: Option<OpenFile>,
    /// Keeps the app's data where it is.
    _buckets: Arc<Granted>,
}

impl BlobBody {
    /// All of `content`, of one of `buckets`.
    pub(crate) fn new(content: BlobContent, held: Option<OpenFile>, buckets: Arc<Granted>) -> Self {
        let left_bytes = content.remaining();
        let pieces = futures::stream::try_unfold(content, async |mut content| {
            Ok(content.next().await?.map(|piece| (piece, content)))
        });
        Self { pieces: pieces.boxed(), piece: Bytes::new(), left_bytes, _held: held, _buckets: buckets }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        if self.left_bytes == 0 {
            return Poll::Ready(None);
        }
        if self.piece.is_empty() {
            self.piece = match ready!(self.pieces.poll_next_unpin(context)) {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))),
            };
        }
        // The store's pieces are larger than those that a client has `write_timeout` for.
        let piece = self.piece.split_to(self.piece.len().min(FILE_PIECE_BYTES));
        self.left_bytes = self.left_bytes.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

//! A stream that translates the text protocol to the binary protocol with a [`Translator`].
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::transport::Io;
use crate::protocol::binary::{Translator, request_len};

/// Text is accepted in chunks of this length, and not while this much waits to be sent.
const CHUNK_LEN: usize = 64 * 1024;

pub(super) struct BinaryStream {
    inner: Box<dyn Io>,
    translator: Translator,
    /// Binary requests that wait to be sent.
    out: BytesMut,
    /// Received responses, translated to text.
    text: BytesMut,
    received: Box<[u8]>,
    /// The number of unsent bytes of a request that was sent in part.
    rest: usize,
    /// Returned by the next poll, after everything that was accepted or translated before. If the
    /// error came first, the caller would send accepted bytes again on another connection.
    failed: Option<io::Error>,
}

impl BinaryStream {
    pub fn new(inner: Box<dyn Io>) -> Self {
        let (out, text) = (BytesMut::new(), BytesMut::new());
        let received = vec![0; CHUNK_LEN].into_boxed_slice();
        let translator = Translator::default();
        Self { inner, translator, out, text, received, rest: 0, failed: None }
    }

    /// The number of bytes of `out` to write together, and how much of the last request is missing
    /// then. Zero while a request that fits into a record is incomplete.
    fn next_write(&self) -> (usize, usize) {
        let len = self.out.len();
        let Some(most) = self.inner.record_len() else { return (len, 0) };
        if self.rest > 0 {
            let taken = self.rest.min(most).min(len);
            return (taken, self.rest - taken);
        }
        let mut end = 0;
        while let Some(request) = request_len(&self.out[end..]) {
            if end == 0 && request > most {
                let taken = most.min(len);
                return (taken, request - taken);
            }
            if end + request > most.min(len) {
                break;
            }
            end += request;
        }
        (end, 0)
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        loop {
            let (len, rest) = self.next_write();
            if len == 0 {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out[..len]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => {
                    self.rest = rest + (len - sent);
                    self.out.advance(sent);
                }
            }
        }
    }

    /// Writes as much as possible. The next poll writes the rest and returns the error, if there is
    /// one.
    fn try_out(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_out(cx) {
            self.failed = Some(error);
        }
    }
}

impl Io for BinaryStream {
    fn force_read(&mut self) {
        self.inner.force_read();
    }
}

impl AsyncWrite for BinaryStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        text: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.failed.is_some() || self.out.len() >= CHUNK_LEN {
            ready!(self.poll_out(cx))?;
        }
        let this = &mut *self;
        let taken = text.len().min(CHUNK_LEN);
        this.translator.encode(&text[..taken], &mut this.out);
        this.try_out(cx);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for BinaryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.text.is_empty() {
            if let Some(error) = this.failed.take() {
                return Poll::Ready(Err(error));
            }
            let mut received = ReadBuf::new(&mut this.received);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut received))?;
            if received.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = this.translator.decode(received.filled(), &mut this.text) {
                this.failed = Some(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        let taken = this.text.len().min(buf.remaining());
        buf.put_slice(&this.text[..taken]);
        this.text.advance(taken);
        Poll::Ready(Ok(()))
    }
}

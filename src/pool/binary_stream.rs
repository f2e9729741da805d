//! A connection on which [`Translator`] stands between us and the server.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::transport::Io;
use crate::protocol::binary::Translator;

/// Text is taken in pieces of this length, and no more of it while this much waits to be sent.
const SHARE: usize = 64 * 1024;

pub(super) struct BinaryStream {
    inner: Box<dyn Io>,
    translator: Translator,
    /// To be sent.
    out: BytesMut,
    /// Received and translated.
    text: BytesMut,
    received: Box<[u8]>,
    /// Told by the next poll, after what was accepted or translated before it: who is told that bytes
    /// were not taken sends them elsewhere.
    failed: Option<io::Error>,
}

impl BinaryStream {
    pub fn new(inner: Box<dyn Io>) -> Self {
        let (out, text) = (BytesMut::new(), BytesMut::new());
        let received = vec![0; SHARE].into_boxed_slice();
        Self { inner, translator: Translator::default(), out, text, received, failed: None }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.out.advance(sent),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// As far as it goes now; the rest, and what is wrong, is for the next poll.
    fn try_out(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_out(cx) {
            self.failed = Some(error);
        }
    }
}

impl Io for BinaryStream {}

impl AsyncWrite for BinaryStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        text: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.failed.is_some() || self.out.len() >= SHARE {
            ready!(self.poll_out(cx))?;
        }
        let this = &mut *self;
        let taken = text.len().min(SHARE);
        this.translator.request(&text[..taken], &mut this.out);
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
            if let Err(error) = this.translator.reply(received.filled(), &mut this.text) {
                this.failed = Some(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        let taken = this.text.len().min(buf.remaining());
        buf.put_slice(&this.text[..taken]);
        this.text.advance(taken);
        Poll::Ready(Ok(()))
    }
}

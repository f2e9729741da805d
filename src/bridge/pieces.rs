//! Values that Python sends and receives in pieces: their checksum, and the buffer that the pieces
//! are put together in.
use std::sync::{Mutex, PoisonError};

use bytes::BufMut;
use crc32fast::Hasher;
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::value_buf::{PartialValue, PyValueBuf};
use crate::protocol::ValueBuf;

/// Copying and checksumming this many bytes in turn reads them from memory only once.
const BLOCK_LEN: usize = 32 * 1024;

/// The CRC-32 of a part of `data`, continued from that of what precedes it. It is that of
/// `zlib.crc32`, computed several times as fast.
#[pyfunction]
pub fn crc32(data: &Bound<'_, PyBytes>, start: usize, end: usize, before: u32) -> PyResult<u32> {
    let Some(part) = data.as_bytes().get(start..end) else {
        return Err(PyValueError::new_err(format!("the data has no bytes {start} to {end}")));
    };
    let mut checksum = Hasher::new_with_initial(before);
    checksum.update(part);
    Ok(checksum.finalize())
}

/// A `bytes` object that is filled piece by piece.
#[pyclass(module = "emcache._emcache", frozen)]
pub struct PieceBuffer(Mutex<Option<Filling>>);

struct Filling {
    value: PartialValue,
    checksum: Hasher,
}

#[pymethods]
impl PieceBuffer {
    #[new]
    fn new(size: usize) -> PyResult<Self> {
        let value = PyValueBuf::allocate(size)
            .ok_or_else(|| PyMemoryError::new_err(format!("no memory for {size} bytes")))?;
        Ok(Self(Mutex::new(Some(Filling { value, checksum: Hasher::new() }))))
    }

    /// Copies the next piece.
    fn append(&self, piece: &Bound<'_, PyBytes>) -> PyResult<()> {
        let mut filling = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = filling.as_ref().map_or(0, |filling| filling.value.remaining_mut());
        let piece = piece.as_bytes();
        match &mut *filling {
            Some(Filling { value, checksum }) if piece.len() <= rest => {
                for block in piece.chunks(BLOCK_LEN) {
                    value.put_slice(block);
                    checksum.update(block);
                }
                Ok(())
            }
            _ => Err(PyValueError::new_err(format!(
                "the piece has {} bytes, but there is room for {rest}",
                piece.len()
            ))),
        }
    }

    /// Returns the complete value and its checksum.
    fn finish(&self, py: Python<'_>) -> PyResult<(Py<PyBytes>, u32)> {
        let mut filling = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match filling.take() {
            Some(Filling { value, checksum }) if value.remaining_mut() == 0 => {
                Ok((PyValueBuf::finish(value).clone_ref(py), checksum.finalize()))
            }
            incomplete => {
                *filling = incomplete;
                Err(PyValueError::new_err("a piece is missing"))
            }
        }
    }
}

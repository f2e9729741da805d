//! The exptimes of meta commands.
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::convert;
use crate::client::clock::unix_now;
use crate::protocol::EXPIRED;

pub fn optional(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Option<i32>> {
    convert::optional(object, |object| convert::named_exptime(name, object))
}

/// The exptime of a lease or a stale item. With 0 neither would expire, and with a past time
/// neither would exist.
pub fn future(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Option<i32>> {
    let exptime = optional(name, object)?;
    if exptime.is_some_and(|exptime| exptime == 0 || is_past(exptime)) {
        return Err(PyValueError::new_err(format!("{name} must be at least 1 second from now")));
    }
    Ok(exptime)
}

/// Whether servers read an exptime as a Unix time that has passed.
fn is_past(exptime: i32) -> bool {
    exptime >= EXPIRED && i64::from(exptime) <= unix_now()
}

//! Arguments from Python, checked before a byte is sent.
use std::collections::HashSet;

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PyList, PyMemoryView, PyString};

use super::errors::InvalidKeyError;
use super::once::AttachedOnce;
use crate::pool::Address;
use crate::protocol::meta::MetaKey;
use crate::protocol::{EXPIRED, Key, MAX_VALUE_LEN};

pub fn key<'a>(object: &'a Bound<'_, PyAny>) -> PyResult<Key<'a>> {
    let bytes = object.cast::<PyBytes>().map_err(|_| wrong_type("key", "bytes", object))?;
    checked(bytes.as_bytes())
}

/// A key of a meta command.
pub fn meta_key<'a>(object: &'a Bound<'_, PyAny>) -> PyResult<MetaKey<'a>> {
    let bytes = object.cast::<PyBytes>().map_err(|_| wrong_type("key", "bytes", object))?;
    MetaKey::parse(bytes.as_bytes()).map_err(|error| InvalidKeyError::new_err(error.to_string()))
}

/// `None`, or the result of a conversion.
pub fn optional<T>(
    object: &Bound<'_, PyAny>,
    convert: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
) -> PyResult<Option<T>> {
    if object.is_none() { Ok(None) } else { convert(object).map(Some) }
}

fn checked(bytes: &[u8]) -> PyResult<Key<'_>> {
    Key::parse(bytes).map_err(|error| InvalidKeyError::new_err(error.to_string()))
}

/// Collects the elements of an iterable.
pub fn objects<'py>(iterable: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    match iterable.cast_exact::<PyList>() {
        Ok(list) => Ok(list.iter().collect()),
        Err(_) => iterable.try_iter()?.collect(),
    }
}

/// The keys as the dict of the result will hold them.
pub fn keys(objects: Vec<Bound<'_, PyAny>>) -> PyResult<Vec<Py<PyBytes>>> {
    let checked = |object| {
        let bytes = plain_bytes(object)?;
        checked(bytes.as_bytes())?;
        Ok(bytes.unbind())
    };
    objects.into_iter().map(checked).collect()
}

/// A key as the dict of the result will hold it, not yet checked.
pub fn plain_bytes(object: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyBytes>> {
    match object.cast_into_exact::<PyBytes>() {
        Ok(bytes) => Ok(bytes),
        // A subclass may define its own `__hash__`, but the server stores plain bytes.
        Err(other) => {
            let other = other.into_inner();
            let bytes = other.cast::<PyBytes>().map_err(|_| wrong_type("key", "bytes", &other))?;
            Ok(PyBytes::new(other.py(), bytes.as_bytes()))
        }
    }
}

/// Removes repeated keys and keeps the first of each.
pub fn unique(py: Python<'_>, keys: Vec<Py<PyBytes>>) -> Vec<Py<PyBytes>> {
    let mut seen = HashSet::with_capacity(keys.len());
    let is_first: Vec<bool> = keys.iter().map(|key| seen.insert(key.as_bytes(py))).collect();
    drop(seen);
    keys.into_iter().zip(is_first).filter_map(|(key, is_first)| is_first.then_some(key)).collect()
}

type Objects<'py> = Vec<Bound<'py, PyAny>>;

/// The keys and the values of a mapping.
pub fn mapping<'py>(items: &Bound<'py, PyAny>) -> PyResult<(Objects<'py>, Objects<'py>)> {
    let pairs = match items.cast_exact::<PyDict>() {
        // A list, because code that runs for the values may change the dict.
        Ok(dict) => dict.items().into_any(),
        Err(_) => match items.getattr_opt("items")? {
            Some(method) => method.call0()?,
            None => return Err(wrong_type("items", "a mapping of bytes to values", items)),
        },
    };
    let pairs = pairs.try_iter()?.map(|pair| pair?.extract()).collect::<PyResult<Vec<_>>>()?;
    Ok(pairs.into_iter().unzip())
}

/// Borrows keys that were checked before.
pub fn trusted<'a>(py: Python<'_>, keys: &'a [Py<PyBytes>]) -> Vec<Key<'a>> {
    keys.iter().map(|key| Key::trusted(key.as_bytes(py))).collect()
}

/// The value as `bytes`. A `bytes` object is returned as it is. Any other bytes-like object is
/// copied, because it may change while it waits to be sent.
pub fn value<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = if let Ok(bytes) = object.cast::<PyBytes>() {
        bytes.clone()
    } else {
        let view = PyMemoryView::from(object)
            .map_err(|_| wrong_type("value", "a bytes-like object", object))?;
        view.call_method0("tobytes")?.cast_into::<PyBytes>()?
    };
    if bytes.as_bytes().len() as u64 > MAX_VALUE_LEN {
        return Err(PyValueError::new_err(format!(
            "value has {} bytes; the limit is {MAX_VALUE_LEN}",
            bytes.as_bytes().len()
        )));
    }
    Ok(bytes)
}

/// Shorter values are copied, because a copy is cheaper than holding a reference.
const SHARED_FROM: usize = 32 * 1024;

/// The value itself, to be sent without a copy, or `None` if it must be copied. A subclass is
/// copied, because its finalizer may run arbitrary code while the core is borrowed.
pub fn shared(value: &Bound<'_, PyBytes>) -> Option<Bytes> {
    let is_shared =
        value.as_bytes().len() >= SHARED_FROM && value.is_exact_instance_of::<PyBytes>();
    is_shared.then(|| Bytes::from_owner(PyBackedBytes::from(value.clone())))
}

/// A value of a batch.
pub enum Value {
    Object(Py<PyBytes>),
    /// A part of a `bytes` object, which is not copied.
    Part(Bytes),
}

/// The value as in [`value`], except that a long view of a `bytes` object is not copied.
pub fn value_or_part(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    match part_of_bytes(object)? {
        Some(part) => Ok(Value::Part(part)),
        None => Ok(Value::Object(value(object)?.unbind())),
    }
}

fn part_of_bytes(object: &Bound<'_, PyAny>) -> PyResult<Option<Bytes>> {
    let Ok(view) = object.cast_exact::<PyMemoryView>() else { return Ok(None) };
    let Ok(buffer) = PyBuffer::<u8>::get(view) else { return Ok(None) };
    let len = buffer.len_bytes();
    if len < SHARED_FROM || len as u64 > MAX_VALUE_LEN || !buffer.is_c_contiguous() {
        return Ok(None);
    }
    let Ok(owner) = view.getattr("obj")?.cast_into_exact::<PyBytes>() else { return Ok(None) };
    let all = Bytes::from_owner(PyBackedBytes::from(owner));
    let start = (buffer.buf_ptr() as usize).checked_sub(all.as_ptr() as usize);
    let end = start.and_then(|start| start.checked_add(len)).filter(|end| *end <= all.len());
    Ok(start.zip(end).map(|(start, end)| all.slice(start..end)))
}

/// An integer in the range of `T`. A `bool` is refused.
pub fn integer<T: Range>(name: &str, object: &Bound<'_, PyAny>) -> PyResult<T> {
    if !object.is_instance_of::<PyInt>() || object.is_instance_of::<PyBool>() {
        return Err(wrong_type(name, "int", object));
    }
    in_range(name, object)
}

/// A `str`, copied.
pub fn text(name: &str, object: &Bound<'_, PyAny>) -> PyResult<String> {
    let Ok(text) = object.cast::<PyString>() else {
        return Err(wrong_type(name, "str", object));
    };
    Ok(text.to_str()?.to_owned())
}

/// `True`, `False`, 1 or 0. Other objects are refused although they have a truth value, because
/// they usually mean something else, such as the `default` of `get` in other libraries.
pub fn flag(name: &str, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    if let Ok(object) = object.cast::<PyBool>() {
        return Ok(object.is_true());
    }
    let number = object.cast::<PyInt>().ok().and_then(|number| number.extract::<u8>().ok());
    match number {
        Some(number @ (0 | 1)) => Ok(number == 1),
        _ => Err(not_a_bool(name, object)),
    }
}

#[cold]
fn not_a_bool(name: &str, object: &Bound<'_, PyAny>) -> PyErr {
    // Only the type, because the object may be a value, which must not appear in a message.
    let kind = type_name(object);
    let hint = match name {
        "return_flags" => "; there is no default argument, and a miss returns None",
        _ => "",
    };
    PyTypeError::new_err(format!("{name} must be a bool, not {kind}{hint}"))
}

/// Seconds in the form that the server accepts. An object that is not an `int` may be one of
/// Python's time types. A negative time expires at once and is sent as a time in the past, because
/// some proxies close the connection for a minus sign or answer it twice.
pub fn exptime(object: &Bound<'_, PyAny>) -> PyResult<i32> {
    named_exptime("exptime", object)
}

/// Like [`exptime`], for an argument with this name.
pub fn named_exptime(name: &str, object: &Bound<'_, PyAny>) -> PyResult<i32> {
    static TO_EXPTIME: AttachedOnce<PyAny> = AttachedOnce::new();
    let seconds = if object.is_exact_instance_of::<PyInt>() {
        in_range(name, object)?
    } else {
        let to_exptime =
            TO_EXPTIME.import(object.py(), "emcache._memcached.times", "to_exptime")?;
        in_range(name, &to_exptime.call1((object, name))?)?
    };
    Ok(if seconds < 0 { EXPIRED } else { seconds })
}

fn in_range<T: Range>(name: &str, object: &Bound<'_, PyAny>) -> PyResult<T> {
    // Most numbers are short, and `i128` takes several times as long.
    if let Ok(number) = object.extract::<i64>()
        && let Ok(number) = T::try_from(i128::from(number))
    {
        return Ok(number);
    }
    object.extract::<i128>().ok().and_then(|n| T::try_from(n).ok()).ok_or_else(|| {
        let (low, high) = T::LIMITS;
        PyValueError::new_err(format!("{name} must be between {low} and {high}"))
    })
}

pub trait Range: TryFrom<i128> {
    const LIMITS: (&str, &str);
}
impl Range for u32 {
    const LIMITS: (&str, &str) = ("0", "4294967295");
}
impl Range for i32 {
    const LIMITS: (&str, &str) = ("-2147483648", "2147483647");
}
impl Range for u64 {
    const LIMITS: (&str, &str) = ("0", "18446744073709551615");
}

/// `(host, port)` or a path.
pub fn address(object: &Bound<'_, PyAny>) -> PyResult<Address> {
    match object.extract::<(String, u16)>() {
        Ok((host, port)) => Ok(Address::Tcp { host, port }),
        Err(_) => Ok(Address::Unix { path: object.extract()? }),
    }
}

fn wrong_type(name: &str, expected: &str, object: &Bound<'_, PyAny>) -> PyErr {
    let got = type_name(object);
    PyTypeError::new_err(format!(
        "Argument '{name}' has incorrect type (expected {expected}, got {got})"
    ))
}

fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string())
}

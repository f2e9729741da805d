//! Meta commands: their arguments from Python, and their replies as tuples.
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::client::CoreClient;
use super::convert;
use super::errors;
use super::expiry;
use super::item::RawItem;
use super::operations::{Answer, Operations};
use super::result::Form;
use crate::client::{BatchResult, MetaReply, Target};
use crate::pool::Submission;
use crate::protocol::meta::{
    DebugInfo, MetaArithmetic, MetaDelete, MetaGet, MetaGetMany, MetaKey, MetaMode, MetaRaw,
    MetaSet, MetaVerb, Version, debug_flags,
};
use crate::protocol::{ArithmeticVerb, Command, OwnedRequest, Request, Words};

type Object<'py> = Bound<'py, PyAny>;

/// The Python form of a reply.
#[derive(Clone, Copy)]
pub enum MetaForm {
    /// The attributes of an item.
    Item,
    /// The words of `me`.
    Debug,
    /// The words of the reply as they came.
    Raw,
}

/// The meta commands of a client.
#[pyclass(frozen, module = "emcache._emcache")]
pub struct CoreMeta(Py<CoreClient>);

#[pymethods]
impl CoreMeta {
    #[new]
    fn new(client: Py<CoreClient>) -> Self {
        Self(client)
    }

    #[allow(clippy::too_many_arguments, reason = "these are the arguments of the command")]
    fn get(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        recache: &Object<'_>,
        vivify: &Object<'_>,
        touch: &Object<'_>,
        no_bump: &Object<'_>,
        size: &Object<'_>,
        last_access: &Object<'_>,
        hit_before: &Object<'_>,
        known_cas: &Object<'_>,
        new_cas: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let key = convert::meta_key(key)?;
        let options = MetaGet {
            is_base64: key.is_base64(),
            value: convert::flag("value", value)?,
            recache: convert::optional(recache, |object| convert::integer("recache", object))?,
            vivify: expiry::future("vivify", vivify)?,
            touch: expiry::optional("touch", touch)?,
            no_bump: convert::flag("no_bump", no_bump)?,
            size: convert::flag("size", size)?,
            last_access: convert::flag("last_access", last_access)?,
            hit_before: convert::flag("hit_before", hit_before)?,
            known_cas: cas("known_cas", known_cas)?,
            new_cas: cas("new_cas", new_cas)?,
        };
        self.send(py, MetaVerb::Get, &key, &options.to_flags(), MetaForm::Item)
    }

    /// Returns the fields of each item by key, and errors by key.
    #[allow(clippy::too_many_arguments, reason = "these are the arguments of the command")]
    fn get_many(
        &self,
        py: Python<'_>,
        keys: &Object<'_>,
        value: &Object<'_>,
        recache: &Object<'_>,
        vivify: &Object<'_>,
        touch: &Object<'_>,
        no_bump: &Object<'_>,
        size: &Object<'_>,
        last_access: &Object<'_>,
        hit_before: &Object<'_>,
        new_cas: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let objects = convert::objects(keys)?;
        let options = MetaGet {
            is_base64: false,
            value: convert::flag("value", value)?,
            recache: convert::optional(recache, |object| convert::integer("recache", object))?,
            vivify: expiry::future("vivify", vivify)?,
            touch: expiry::optional("touch", touch)?,
            no_bump: convert::flag("no_bump", no_bump)?,
            size: convert::flag("size", size)?,
            last_access: convert::flag("last_access", last_access)?,
            hit_before: convert::flag("hit_before", hit_before)?,
            known_cas: None,
            new_cas: cas("new_cas", new_cas)?,
        };
        let plain = |object| convert::plain_bytes(object).map(Bound::unbind);
        let keys = objects.into_iter().map(plain).collect::<PyResult<_>>()?;
        let keys = convert::unique(py, keys);
        let (mut written, mut base64) = (Vec::with_capacity(keys.len()), Vec::new());
        for (at, bytes) in keys.iter().enumerate() {
            let key = convert::meta_key(bytes.bind(py))?;
            if key.is_base64() {
                base64.push(at);
                written.push(PyBytes::new(py, key.as_key().as_bytes()).unbind());
            } else {
                written.push(bytes.clone_ref(py));
            }
        }
        let (options, form) = (MetaGetMany::new(options), Form::MetaMany(keys));
        // Checked again, because the conversions above may have run user code.
        self.session(py)?.meta_get_many(py, options, written, base64, form)
    }

    #[allow(clippy::too_many_arguments, reason = "these are the arguments of the command")]
    fn set(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        mode: &str,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        cas: &Object<'_>,
        invalidate: &Object<'_>,
        vivify: &Object<'_>,
        new_cas: &Object<'_>,
        return_cas: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let key = convert::meta_key(key)?;
        let value = convert::value(value)?;
        let options = MetaSet {
            is_base64: key.is_base64(),
            mode: match mode {
                "add" => MetaMode::Add,
                "replace" => MetaMode::Replace,
                "append" => MetaMode::Append,
                "prepend" => MetaMode::Prepend,
                _ => MetaMode::Set,
            },
            flags: convert::integer("flags", flags)?,
            exptime: convert::exptime(exptime)?,
            cas: self::cas("cas", cas)?,
            invalidate: convert::flag("invalidate", invalidate)?,
            vivify: expiry::optional("vivify", vivify)?,
            new_cas: self::cas("new_cas", new_cas)?,
            return_cas: convert::flag("return_cas", return_cas)?,
        };
        self.send_with_value(py, MetaVerb::Set, &key, &options.to_flags(), &value, MetaForm::Item)
    }

    #[allow(clippy::too_many_arguments, reason = "these are the arguments of the command")]
    fn delete(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        cas: &Object<'_>,
        invalidate: &Object<'_>,
        stale_for: &Object<'_>,
        clear: &Object<'_>,
        new_cas: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let key = convert::meta_key(key)?;
        let options = MetaDelete {
            is_base64: key.is_base64(),
            cas: self::cas("cas", cas)?,
            invalidate: convert::flag("invalidate", invalidate)?,
            stale_for: expiry::future("stale_for", stale_for)?,
            clear: convert::flag("clear", clear)?,
            new_cas: self::cas("new_cas", new_cas)?,
        };
        self.send(py, MetaVerb::Delete, &key, &options.to_flags(), MetaForm::Item)
    }

    /// `verb` is `incr` or `decr`.
    #[allow(clippy::too_many_arguments, reason = "these are the arguments of the command")]
    fn arithmetic(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        verb: &str,
        delta: &Object<'_>,
        initial: &Object<'_>,
        exptime: &Object<'_>,
        touch: &Object<'_>,
        cas: &Object<'_>,
        new_cas: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let key = convert::meta_key(key)?;
        let exptime = convert::exptime(exptime)?;
        let initial = convert::optional(initial, |object| convert::integer("initial", object))?;
        let options = MetaArithmetic {
            is_base64: key.is_base64(),
            verb: if verb == "decr" { ArithmeticVerb::Decr } else { ArithmeticVerb::Incr },
            delta: convert::integer("delta", delta)?,
            initial: initial.map(|number| (number, exptime)),
            touch: expiry::optional("touch", touch)?,
            cas: self::cas("cas", cas)?,
            new_cas: self::cas("new_cas", new_cas)?,
        };
        self.send(py, MetaVerb::Arithmetic, &key, &options.to_flags(), MetaForm::Item)
    }

    fn debug(&self, py: Python<'_>, key: &Object<'_>) -> Answer {
        self.session(py)?;
        let key = convert::meta_key(key)?;
        self.send(py, MetaVerb::Debug, &key, debug_flags(key.is_base64()), MetaForm::Debug)
    }

    fn noop(&self, py: Python<'_>, node: usize) -> Answer {
        self.session(py)?.command(py, Target::Node(node), Command::MetaNoOp, false)
    }

    /// `command` is `mg`, `ms`, `md`, `ma` or `me`; `value` is for `ms`.
    fn raw(
        &self,
        py: Python<'_>,
        command: &Object<'_>,
        key: &Object<'_>,
        flags: &Object<'_>,
        value: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let command = convert::text("command", command)?;
        let verb = MetaVerb::from_name(&command)
            .ok_or_else(|| PyValueError::new_err("command must be mg, ms, md, ma or me"))?;
        let key = convert::meta_key(key)?;
        if (verb == MetaVerb::Set) == value.is_none() {
            return Err(PyValueError::new_err("ms has a value, and no other meta command has one"));
        }
        let flags = convert::text("flags", flags)?;
        let flags =
            MetaRaw { is_base64: key.is_base64(), flags: &flags }.to_flags().map_err(refused)?;
        if value.is_none() {
            return self.send(py, verb, &key, &flags, MetaForm::Raw);
        }
        let value = convert::value(value)?;
        self.send_with_value(py, verb, &key, &flags, &value, MetaForm::Raw)
    }

    /// The version of the key's node, if it is known and knows meta commands.
    fn version(&self, py: Python<'_>, key: &Object<'_>) -> PyResult<Option<(u32, u32, u32)>> {
        let key = convert::meta_key(key)?;
        let session = self.session(py)?;
        let node = session.node_for(py, key.as_key())?;
        Ok(session.meta_version(py, node)?.map(Version::parts))
    }

    /// The key's node, and a number that changes when another server may answer for it.
    fn server_epoch(&self, py: Python<'_>, key: &Object<'_>) -> PyResult<(usize, u64)> {
        let key = convert::meta_key(key)?;
        self.session(py)?.key_epoch(py, key.as_key())
    }
}

impl CoreMeta {
    fn session(&self, py: Python<'_>) -> PyResult<Operations<'_>> {
        self.0.get().session(py)
    }

    fn send(
        &self,
        py: Python<'_>,
        verb: MetaVerb,
        key: &MetaKey<'_>,
        flags: &str,
        form: MetaForm,
    ) -> Answer {
        let command = Command::Meta { verb, key: key.as_key(), flags: words(flags)?, value: b"" };
        let request = Request::Command(command);
        self.session(py)?.meta(py, Submission::Borrowed(&request), form)
    }

    fn send_with_value(
        &self,
        py: Python<'_>,
        verb: MetaVerb,
        key: &MetaKey<'_>,
        flags: &str,
        value: &Bound<'_, PyBytes>,
        form: MetaForm,
    ) -> Answer {
        let (key, flags) = (key.as_key(), words(flags)?);
        let session = self.session(py)?;
        if let Some(value) = convert::shared(value) {
            let mut request = OwnedRequest::meta(verb, key, flags, value);
            return session.meta(py, Submission::Owned(&mut request), form);
        }
        let command = Command::Meta { verb, key, flags, value: value.as_bytes() };
        session.meta(py, Submission::Borrowed(&Request::Command(command)), form)
    }
}

fn words(flags: &str) -> PyResult<Words<'_>> {
    Words::parse(flags).ok_or_else(|| {
        PyValueError::new_err("flags must be words of printable ASCII, separated by single spaces")
    })
}

#[cold]
fn refused(letter: char) -> PyErr {
    PyValueError::new_err(match letter {
        'b' => "flag b is set for keys that need it; pass the key as it is",
        _ => "flag q would suppress the reply",
    })
}

fn cas(name: &str, object: &Object<'_>) -> PyResult<Option<u64>> {
    convert::optional(object, |object| convert::integer(name, object))
}

/// The fields of each `MetaItem` by key, and errors by key; each in the order of the call.
pub fn many_to_tuple(
    py: Python<'_>,
    mut result: BatchResult<RawItem>,
    keys: &[Py<PyBytes>],
) -> PyResult<Py<PyAny>> {
    let (items, errors) = (PyDict::new(py), PyDict::new(py));
    // Replies of several nodes arrive in any order.
    result.replies.sort_unstable_by_key(|(at, _)| *at);
    for (at, reply) in &result.replies {
        let is = reply.attributes();
        let value = reply.item.as_ref().map(RawItem::value);
        let len = value.as_ref().and_then(|value| value.as_bytes(py).len().try_into().ok());
        let (flags, cas) = (is.flags.unwrap_or_default(), is.cas.unwrap_or_default());
        let (ttl, size) = (is.ttl.unwrap_or(-1), len.or(is.size));
        let (access, marks) = ((is.last_access, is.hit_before), (is.won, is.stale, is.lost));
        let fields = (value, flags, cas, ttl, size, access.0, access.1, marks.0, marks.1, marks.2);
        items.set_item(&keys[*at], fields)?;
    }
    for (at, failure) in &result.failed {
        errors.set_item(&keys[*at], errors::from_failure(py, failure))?;
    }
    Ok((items, errors).into_pyobject(py)?.into_any().unbind())
}

/// The status, and what the form says.
pub fn to_tuple(py: Python<'_>, reply: MetaReply<RawItem>, form: MetaForm) -> PyResult<Py<PyAny>> {
    let status = reply.status.name();
    let all = match form {
        MetaForm::Item => {
            let is = reply.attributes();
            let value = reply.item.as_ref().map(RawItem::value);
            let marks = (is.won, is.stale, is.lost);
            let rest = (is.flags, is.cas, is.ttl, is.size, is.last_access, is.hit_before);
            (status, value, rest, marks).into_pyobject(py)?
        }
        MetaForm::Debug => {
            let DebugInfo { ttl, last_access, cas, fetched, slab_class, size } =
                DebugInfo::parse(&reply.flags);
            (status, ttl, last_access, cas, fetched, slab_class, size).into_pyobject(py)?
        }
        MetaForm::Raw => {
            let flags = PyBytes::new(py, &reply.flags);
            let value = reply.item.as_ref().map(RawItem::value);
            (status, flags, value).into_pyobject(py)?
        }
    };
    Ok(all.into_any().unbind())
}

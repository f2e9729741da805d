//! The arguments of a call: converted in the order of 1.3, and only then is the session looked up.
use pyo3::prelude::*;

use super::super::convert;
use super::super::operations::Answer;
use super::{CoreClient, Object};
use crate::client::{Action, Target};
use crate::pool::Submission;
use crate::protocol::{ArithmeticVerb, Command, OwnedRequest, Request, RetrievalVerb, StorageVerb};

impl CoreClient {
    pub(super) fn fetch(
        &self,
        py: Python<'_>,
        verb: impl FnOnce() -> PyResult<RetrievalVerb>,
        key: &Object<'_>,
        return_flags: &Object<'_>,
    ) -> Answer {
        self.open()?;
        let flags = convert::flag("return_flags", return_flags)?;
        let key = convert::key(key)?;
        let verb = verb()?;
        self.session(py)?.fetch(py, key, verb, flags)
    }

    pub(super) fn fetch_many(
        &self,
        py: Python<'_>,
        verb: impl FnOnce() -> PyResult<RetrievalVerb>,
        keys: &Object<'_>,
        return_flags: &Object<'_>,
        is_partial: bool,
    ) -> Answer {
        self.session(py)?;
        // `None` counts as no keys, as any false value does in 1.3.
        let objects = if keys.is_truthy()? { convert::objects(keys)? } else { Vec::new() };
        let flags = convert::flag("return_flags", return_flags)?;
        let keys = convert::keys(objects)?;
        let verb = if keys.is_empty() { RetrievalVerb::Get } else { verb()? };
        // Checked again, because the conversions above may have run user code that closed the
        // client.
        self.session(py)?.fetch_many(py, keys, verb, flags, is_partial)
    }

    pub(super) fn write_many(
        &self,
        py: Python<'_>,
        verb: StorageVerb,
        items: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let (keys, values) = convert::mapping(items)?;
        let keys = convert::keys(keys)?;
        let values = values.iter().map(convert::value_or_part).collect::<PyResult<_>>()?;
        let flags = convert::integer("flags", flags)?;
        let exptime = convert::exptime(exptime)?;
        let noreply = convert::flag("noreply", noreply)?;
        // Checked again, because the conversions above may have run user code.
        let session = self.session(py)?;
        session.batch(py, Action::Store { verb, flags, exptime }, keys, values, noreply)
    }

    pub(super) fn change_many(
        &self,
        py: Python<'_>,
        action: impl FnOnce() -> PyResult<Action>,
        keys: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let objects = convert::objects(keys)?;
        let (action, noreply) = (action()?, convert::flag("noreply", noreply)?);
        let keys = convert::unique(py, convert::keys(objects)?);
        // Checked again, as above.
        self.session(py)?.batch(py, action, keys, Vec::new(), noreply)
    }

    #[allow(clippy::too_many_arguments, reason = "these are the arguments of the command")]
    pub(super) fn store(
        &self,
        py: Python<'_>,
        verb: impl FnOnce() -> PyResult<StorageVerb>,
        key: &Object<'_>,
        value: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.open()?;
        let key = convert::key(key)?;
        let value = convert::value(value)?;
        let verb = verb()?;
        let flags = convert::integer("flags", flags)?;
        let exptime = convert::exptime(exptime)?;
        let noreply = convert::flag("noreply", noreply)?;
        let session = self.session(py)?;
        if let Some(value) = convert::shared(&value) {
            let mut request = OwnedRequest::storage(verb, key, flags, exptime, value);
            return session.request(py, Target::Key, Submission::Owned(&mut request), noreply);
        }
        let value = value.as_bytes();
        let request = Request::Command(Command::Storage { verb, key, flags, exptime, value });
        session.request(py, Target::Key, Submission::Borrowed(&request), noreply)
    }

    pub(super) fn count(
        &self,
        py: Python<'_>,
        verb: ArithmeticVerb,
        key: &Object<'_>,
        value: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.open()?;
        let key = convert::key(key)?;
        let delta = convert::integer("value", value)?;
        let noreply = convert::flag("noreply", noreply)?;
        let command = Command::Arithmetic { verb, key, delta };
        self.session(py)?.command(py, Target::Key, command, noreply)
    }

    /// A number that is created if the key is missing.
    pub(super) fn counter(
        &self,
        py: Python<'_>,
        verb: ArithmeticVerb,
        key: &Object<'_>,
        value: &Object<'_>,
        initial: &Object<'_>,
        exptime: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let key = convert::key(key)?;
        let delta = convert::integer("value", value)?;
        let initial = convert::integer("initial", initial)?;
        let exptime = convert::exptime(exptime)?;
        let command = Command::Counter { verb, key, delta, initial, exptime };
        self.session(py)?.counter(py, command)
    }

    pub(super) fn admin(
        &self,
        py: Python<'_>,
        node: usize,
        command: Command<'_>,
        noreply: bool,
    ) -> Answer {
        self.session(py)?.command(py, Target::Node(node), command, noreply)
    }
}

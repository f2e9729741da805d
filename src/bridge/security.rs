//! TLS and a login, made once for all connections, as an object that shows nothing of itself: it may be in any
//! frame of Python's.
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::pool::{Login, Mechanism, Security, Tls, TlsOptions, redact_login_refusal};

#[pyclass(frozen, module = "emcache._emcache", name = "Security")]
pub struct PySecurity(pub Arc<Security>);

#[pymethods]
impl PySecurity {
    #[new]
    fn new(tls: Option<TlsArguments>, login: Option<(String, String, String)>) -> PyResult<Self> {
        let tls = tls.map(TlsArguments::into_tls).transpose()?;
        let login = login.map(login_from_args).transpose()?;
        Ok(Self(Arc::new(Security { tls, login })))
    }

    /// What may be shown of the words that refuse a login.
    #[staticmethod]
    fn refusal(words: &[u8], password: &str) -> String {
        redact_login_refusal(words, password)
    }
}

/// PEM texts, and what else `create_client` takes for TLS.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct TlsArguments {
    verify: bool,
    extra_ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    only_1_3: bool,
}

impl TlsArguments {
    fn into_tls(self) -> PyResult<Tls> {
        let Self { verify, extra_ca, client, server_name, only_1_3 } = self;
        let options = TlsOptions { verify, extra_ca, client, server_name, only_1_3 };
        Tls::new(options).map_err(|error| PyValueError::new_err(error.to_string()))
    }
}

/// Of mechanism, username and password.
fn login_from_args((mechanism, username, password): (String, String, String)) -> PyResult<Login> {
    let mechanism = match mechanism.as_str() {
        "sasl" => Mechanism::Sasl,
        _ => Mechanism::Ascii,
    };
    Login::new(mechanism, username, password)
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

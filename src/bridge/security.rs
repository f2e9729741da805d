//! TLS settings and a login, created once for all connections. The object has no representation of
//! its contents, because it may appear in any Python frame.
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::pool::{Login, Mechanism, Security, Tls, TlsOptions, redact_login_refusal};

#[pyclass(frozen, module = "emcache._emcache", name = "Security")]
pub struct PySecurity(pub Arc<Security>);

#[pymethods]
impl PySecurity {
    #[new]
    fn new(
        py: Python<'_>,
        tls: Option<TlsArguments>,
        login: Option<(String, String, String)>,
    ) -> PyResult<Self> {
        let tls = tls.map(|arguments| arguments.into_tls(py)).transpose()?;
        let login = login.map(login_from_args).transpose()?;
        Ok(Self(Arc::new(Security { tls, login })))
    }

    /// The part of a server's refusal that may be shown.
    #[staticmethod]
    fn refusal(words: &[u8], password: &str) -> String {
        redact_login_refusal(words, password)
    }
}

/// PEM texts and the other TLS options of `create_client`.
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
    fn into_tls(self, py: Python<'_>) -> PyResult<Tls> {
        let Self { verify, extra_ca, client, server_name, only_1_3 } = self;
        let options = TlsOptions { verify, extra_ca, client, server_name, only_1_3 };
        Tls::new(options).map_err(|error| {
            let raised = PyValueError::new_err(error.to_string());
            let set = raised.value(py).setattr("_cli_text", format!("{error:#}"));
            set.map_or_else(|failed| failed, |()| raised)
        })
    }
}

/// Creates a login from mechanism, username and password.
fn login_from_args((mechanism, username, password): (String, String, String)) -> PyResult<Login> {
    let mechanism = match mechanism.as_str() {
        "sasl" => Mechanism::Sasl,
        _ => Mechanism::Ascii,
    };
    Login::new(mechanism, username, password)
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

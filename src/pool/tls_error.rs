//! Failed handshakes, described with the option that may fix them.
use std::fmt;

use tokio_rustls::rustls::{self, CertificateError};

/// An option of TLS that a message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsOption {
    ExtraCa,
    Certificate,
    Key,
    NoVerify,
}

impl TlsOption {
    /// The argument of `create_client`; in the alternate form of a message (`{:#}`), the option of
    /// the command line.
    pub fn name(self, f: &fmt::Formatter<'_>) -> &'static str {
        match (self, f.alternate()) {
            (Self::ExtraCa, false) => "ssl_extra_ca",
            (Self::ExtraCa, true) => "--ca",
            (Self::Certificate, false) => "ssl_certfile",
            (Self::Certificate, true) => "--cert",
            (Self::Key, false) => "ssl_keyfile",
            (Self::Key, true) => "--key",
            (Self::NoVerify, false) => "ssl_verify=False",
            (Self::NoVerify, true) => "--no-verify",
        }
    }
}

/// Why a connection with TLS failed.
#[derive(Debug)]
pub enum TlsError {
    UnknownIssuer,
    /// The certificate is not of X.509 version 3.
    CertificateVersion,
    ClientCertificateRequired,
    Other(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownIssuer => {
                let ca = TlsOption::ExtraCa.name(f);
                f.write_str("the server's certificate is not trusted: unknown issuer ")?;
                write!(f, "(pass its CA as {ca})")
            }
            Self::CertificateVersion => {
                let no_verify = TlsOption::NoVerify.name(f);
                f.write_str("the server's certificate is not of X.509 version 3, ")?;
                write!(f, "and can only be used with {no_verify}")
            }
            Self::ClientCertificateRequired => {
                let certificate = TlsOption::Certificate.name(f);
                write!(f, "the server wants a client certificate (pass {certificate})")
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<&rustls::Error> for TlsError {
    fn from(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        Self::Other(match error {
            E::InvalidCertificate(CertificateError::UnknownIssuer) => return Self::UnknownIssuer,
            E::InvalidCertificate(error) if is_old_version(error) => {
                return Self::CertificateVersion;
            }
            E::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
                return Self::ClientCertificateRequired;
            }
            E::InvalidCertificate(error) => {
                format!("the server's certificate {}", describe_certificate_error(error))
            }
            E::InvalidMessage(_) => "the server does not speak TLS".to_owned(),
            E::AlertReceived(alert) => {
                format!("the server rejected the handshake with the alert {alert:?}")
            }
            E::General(text) => text.clone(),
            other => other.to_string(),
        })
    }
}

fn is_old_version(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else { return false };
    let error = other.0.downcast_ref();
    matches!(error, Some(webpki::Error::UnsupportedCertVersion))
}

fn describe_certificate_error(error: &CertificateError) -> String {
    use CertificateError as C;
    match error {
        C::NotValidForName => "is not valid for the server's name".to_owned(),
        C::NotValidForNameContext { expected, presented } if presented.is_empty() => {
            format!(
                "is not valid for '{}': it names no host (no subjectAltName)",
                expected.to_str()
            )
        }
        C::NotValidForNameContext { expected, presented } => {
            // `DnsName("…")`, `IpAddress(…)`
            let bare = |name: &String| {
                let bare = name.split_once('(').and_then(|(_, name)| name.strip_suffix(')'));
                bare.unwrap_or(name).trim_matches('"').to_owned()
            };
            let names: Vec<_> = presented.iter().map(bare).collect();
            format!("is not valid for '{}', only for {}", expected.to_str(), names.join(", "))
        }
        C::Expired | C::ExpiredContext { .. } => "has expired".to_owned(),
        C::NotValidYet | C::NotValidYetContext { .. } => "is not valid yet".to_owned(),
        C::BadSignature | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is not trusted: its issuer has the name of a known CA but another key".to_owned()
        }
        C::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "is a CA certificate, which a server must not use (basicConstraints CA:TRUE)"
                    .to_owned()
            }
            _ => format!("is not acceptable: {other}"),
        },
        other => format!("is not acceptable: {other}"),
    }
}

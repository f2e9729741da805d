//! Failed handshakes, described with the option that may fix them.
use tokio_rustls::rustls::{self, CertificateError};

/// Describes a failed handshake, with the option that may fix it.
pub(super) fn explain(error: &rustls::Error) -> String {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(error) => {
            format!("the server's certificate {}", describe_certificate_error(error))
        }
        E::InvalidMessage(_) => "the server does not speak TLS".to_owned(),
        E::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
            "the server wants a client certificate (pass ssl_certfile)".to_owned()
        }
        E::AlertReceived(alert) => {
            format!("the server rejected the handshake with the alert {alert:?}")
        }
        E::General(text) => text.clone(),
        other => other.to_string(),
    }
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
        C::UnknownIssuer => {
            "is not trusted: unknown issuer (pass its CA as ssl_extra_ca)".to_owned()
        }
        C::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(webpki::Error::UnsupportedCertVersion) => {
                "is not of X.509 version 3, and can only be used with ssl_verify=False".to_owned()
            }
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "is a CA certificate, which a server must not use (basicConstraints CA:TRUE)"
                    .to_owned()
            }
            _ => format!("is not acceptable: {other}"),
        },
        other => format!("is not acceptable: {other}"),
    }
}

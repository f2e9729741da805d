//! TLS: trusted CAs, client certificates, and the messages of failed handshakes.
use std::fmt;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::address::Address;
use super::error::Cause;
use super::io::Io;
use super::tls_error::{TlsError, TlsOption};

/// The maximum length of a TLS record.
const RECORD_LEN: usize = 16 * 1024;

/// The limit for records that are written to the socket together.
const MAX_BUFFERED: usize = 4 * RECORD_LEN;

/// Makes one TLS record of each write.
///
/// memcached before 1.6.39 reads a large value directly and leaves the following bytes of the same
/// record inside OpenSSL, where it does not notice them until more bytes arrive. So a record must
/// not end with a part of a command after other commands.
struct TlsRecords {
    inner: TlsStream<Box<dyn Io>>,
    /// Plaintext bytes in records that may not be written to the socket yet.
    buffered: usize,
}

impl TlsRecords {
    fn new(mut inner: TlsStream<Box<dyn Io>>) -> Self {
        // A limit would split a record. The buffer is limited here instead.
        inner.get_mut().1.set_buffer_limit(None);
        Self { inner, buffered: 0 }
    }
}

impl Io for TlsRecords {
    fn record_len(&self) -> Option<usize> {
        Some(RECORD_LEN)
    }

    fn descriptor(&self) -> Option<i32> {
        self.inner.get_ref().0.descriptor()
    }

    fn block_next_read(&mut self) {
        self.inner.get_mut().0.block_next_read();
    }

    fn force_read(&mut self) {
        self.inner.get_mut().0.force_read();
    }

    fn reset_on_drop(&mut self) {
        self.inner.get_mut().0.reset_on_drop();
    }
}

impl AsyncRead for TlsRecords {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsRecords {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.buffered >= MAX_BUFFERED {
            ready!(self.as_mut().poll_flush(cx))?;
        }
        let written = self.inner.get_mut().1.writer().write_vectored(pieces)?;
        self.buffered += written;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.buffered = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The TLS options of a client, as PEM data, not paths.
#[derive(Default)]
pub struct TlsOptions {
    /// Whether to verify that the server's certificate is issued by a trusted CA, is within its
    /// validity period, and matches the server's name.
    pub verify: bool,
    /// CAs to trust in addition to those of the system.
    pub extra_ca: Option<Vec<u8>>,
    /// The client's certificate chain, its own certificate first, and its private key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// The expected name of the server; `None` for the host of its address.
    pub server_name: Option<String>,
    /// Whether to refuse versions before TLS 1.3.
    pub only_1_3: bool,
}

/// Invalid TLS options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsConfigError {
    NoCertificate(TlsOption),
    BadPem { option: TlsOption, reason: String },
    NoKey,
    BadClient(String),
    BadServerName(String),
    NoRoots(String),
    Refused(String),
}

/// The alternate form (`{:#}`) names options as the command line does.
impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate(option) => {
                write!(f, "{} contains no PEM certificate", option.name(f))
            }
            Self::BadPem { option, reason } => write!(f, "{}: {reason}", option.name(f)),
            Self::NoKey => {
                let key = TlsOption::Key.name(f);
                write!(f, "{key} contains no PEM private key; encrypted keys are not supported")
            }
            Self::BadClient(reason) => {
                let (certificate, key) = (TlsOption::Certificate.name(f), TlsOption::Key.name(f));
                write!(f, "{certificate} and {key}: {reason}")
            }
            Self::BadServerName(name) => write!(f, "'{name}' is not a host name"),
            Self::NoRoots(reason) => write!(
                f,
                "no CA certificates to verify servers with{reason}; install ca-certificates, \
                 set SSL_CERT_FILE, or pass {}",
                TlsOption::ExtraCa.name(f)
            ),
            Self::Refused(reason) => write!(f, "TLS cannot be set up: {reason}"),
        }
    }
}

impl std::error::Error for TlsConfigError {}

pub struct Tls {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Tls {
    pub fn new(options: TlsOptions) -> Result<Self, TlsConfigError> {
        let refused = |error: rustls::Error| TlsConfigError::Refused(error.to_string());
        // Set for this configuration only, because other libraries of the process choose their own.
        let provider = Arc::new(ring::default_provider());
        let versions: &[_] = if options.only_1_3 { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let verifier: Arc<dyn ServerCertVerifier> = if options.verify {
            Arc::new(Verifier::new(&provider, options.extra_ca.as_deref())?)
        } else {
            Arc::new(Unverified(provider.clone()))
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let has_certificate = options.client.is_some();
        let mut config = match options.client {
            Some((certificates, key)) => {
                let chain = parse_certificates(TlsOption::Certificate, &certificates)?;
                let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| TlsConfigError::NoKey)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| TlsConfigError::BadClient(error.to_string()))?
            }
            None => builder.with_no_client_auth(),
        };
        if has_certificate {
            // memcached refuses to resume a session whose certificate it verified (OpenSSL:
            // "session id context uninitialized"), and with it every connection but the first.
            config.resumption = Resumption::disabled();
        }
        let server_name = options.server_name.map(server_name).transpose()?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn handshake(
        &self,
        stream: Box<dyn Io>,
        address: &Address,
    ) -> Result<Box<dyn Io>, Cause> {
        let failed = |text: String| Cause::Tls(Arc::new(TlsError::Other(text)));
        let name = match (&self.server_name, address) {
            (Some(name), _) => Ok(name.clone()),
            (None, Address::Tcp { host, .. }) => server_name(host.clone()),
            // The name is not used: a path cannot be verified.
            (None, Address::Unix { .. }) => server_name("localhost".to_owned()),
        };
        let name = name.map_err(|error| failed(error.to_string()))?;
        match self.connector.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(TlsRecords::new(stream))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(failed("the server closed the connection during the handshake".to_owned()))
            }
            Err(error) => Err(Cause::from_io(error)),
        }
    }
}

/// A name or an IP address. Names in certificates have no trailing dot.
fn server_name(host: String) -> Result<ServerName<'static>, TlsConfigError> {
    let bare = host.strip_suffix('.').unwrap_or(&host).to_owned();
    ServerName::try_from(bare).map_err(|_| TlsConfigError::BadServerName(host))
}

fn parse_certificates(
    option: TlsOption,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsConfigError::BadPem { option, reason: error.to_string() })?;
    if certificates.is_empty() {
        return Err(TlsConfigError::NoCertificate(option));
    }
    Ok(certificates)
}

/// The checks of webpki, with a clear message for self-signed certificates.
#[derive(Debug)]
struct Verifier(Arc<WebPkiServerVerifier>);

impl Verifier {
    fn new(
        provider: &Arc<CryptoProvider>,
        extra_ca: Option<&[u8]>,
    ) -> Result<Self, TlsConfigError> {
        let mut roots = RootCertStore::empty();
        let system_roots = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system_roots.certs);
        if let Some(pem) = extra_ca {
            for certificate in parse_certificates(TlsOption::ExtraCa, pem)? {
                roots.add(certificate).map_err(|error| TlsConfigError::BadPem {
                    option: TlsOption::ExtraCa,
                    reason: error.to_string(),
                })?;
            }
        }
        if roots.is_empty() {
            let errors: Vec<_> = system_roots.errors.iter().map(|e| format!(" ({e})")).collect();
            return Err(TlsConfigError::NoRoots(errors.concat()));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|error| TlsConfigError::Refused(error.to_string()))?;
        Ok(Self(verifier))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if verified.as_ref().is_err_and(is_untrusted)
            && webpki::EndEntityCert::try_from(end_entity)
                .is_ok_and(|certificate| certificate.issuer() == certificate.subject())
        {
            return Err(rustls::Error::General(SELF_SIGNED.to_owned()));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Whether no path leads to a trusted CA. With the latter two errors, a CA has the right name and
/// another key.
fn is_untrusted(error: &rustls::Error) -> bool {
    use CertificateError as C;
    let rustls::Error::InvalidCertificate(problem) = error else { return false };
    matches!(
        problem,
        C::UnknownIssuer
            | C::BadSignature
            | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
    )
}

/// `ssl_verify=False`: accepts any certificate, including X.509 v1, whose signatures webpki cannot
/// check.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const SELF_SIGNED: &str = "the server's certificate is self-signed and not trusted";

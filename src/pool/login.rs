//! Authentication: a connection logs in before it is used.
use std::fmt;

use bytes::BytesMut;
use secrecy::zeroize::{Zeroize, Zeroizing};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::Cause;
use super::exchange::exchange;
use super::io::Io;
use crate::protocol::binary::{self, SaslAnswer};
use crate::protocol::{Command, Dialect, ErrorLine, Excerpt, ProtocolError, Reply, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// `memcached -Y`
    Ascii,
    /// `memcached -S`: PLAIN, over the binary protocol
    Sasl,
}

pub struct Login {
    pub mechanism: Mechanism,
    username: String,
    password: SecretString,
}

/// Credentials that cannot be sent, or that could be mistaken for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCredentials(&'static str);

impl fmt::Display for InvalidCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidCredentials {}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// A server without authentication could run the credentials as a command line, so these names are
/// rejected.
const COMMANDS: &[&str] = &[
    "get",
    "gets",
    "gat",
    "gats",
    "bget",
    "set",
    "add",
    "replace",
    "append",
    "prepend",
    "cas",
    "delete",
    "incr",
    "decr",
    "touch",
    "flush_all",
    "version",
    "stats",
    "verbosity",
    "cache_memlimit",
    "slabs",
    "lru",
    "lru_crawler",
    "watch",
    "config",
    "shutdown",
    "quit",
    "misbehave",
    "refresh_certs",
    "extstore",
    "mg",
    "ms",
    "md",
    "ma",
    "me",
    "mn",
];

impl Login {
    pub fn new(
        mechanism: Mechanism,
        username: String,
        password: String,
    ) -> Result<Self, InvalidCredentials> {
        let password = SecretString::from(password);
        let invalid = match mechanism {
            Mechanism::Ascii => invalid_reason(&username, password.expose_secret()),
            Mechanism::Sasl
                if username.contains('\0') || password.expose_secret().contains('\0') =>
            {
                Some("username and password must not contain a null character")
            }
            Mechanism::Sasl => None,
        };
        invalid
            .map_or(Ok(Self { mechanism, username, password }), |why| Err(InvalidCredentials(why)))
    }

    /// Logs in. If the server refuses, the cause contains its message, redacted.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(super) async fn perform(&self, stream: Box<dyn Io>) -> Result<Box<dyn Io>, Cause> {
        let password = self.password.expose_secret();
        match self.mechanism {
            Mechanism::Ascii => ascii(stream, &self.username, password).await,
            Mechanism::Sasl => sasl(stream, &self.username, password).await,
        }
    }
}

/// The part of a refusal that may be shown. A server may repeat the password, in plain, encoded,
/// cut or split text, so only words are shown that servers are known to send.
pub fn redact_refusal(words: &[u8], password: &str) -> String {
    let mut shown: Vec<&str> = Vec::new();
    for word in words.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
        let word = std::str::from_utf8(word).unwrap_or_default();
        let bare = word.trim_matches(|c| "'\".,:;!()".contains(c));
        let is_known = WORDS.iter().chain(MECHANISMS).any(|known| known.eq_ignore_ascii_case(bare));
        let is_secret = password.split_whitespace().any(|part| part.eq_ignore_ascii_case(bare));
        if is_known && !is_secret {
            shown.push(word);
        } else if shown.last() != Some(&"…") {
            shown.push("…");
        }
    }
    shown.join(" ")
}

#[rustfmt::skip]
const MECHANISMS: &[&str] = &[
    "PLAIN", "LOGIN", "ANONYMOUS", "EXTERNAL", "CRAM-MD5", "DIGEST-MD5", "NTLM", "OTP", "SRP",
    "GSSAPI", "GSS-SPNEGO",
    "GS2-KRB5", "GS2-IAKERB", "SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256",
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-512", "OAUTHBEARER", "XOAUTH2",
];

#[rustfmt::skip]
const WORDS: &[&str] = &[
    "ERROR", "CLIENT_ERROR", "SERVER_ERROR", "STORED", "NOT_STORED", "OK", "END",
    "access", "account", "allowed", "and", "auth", "authenticate", "authenticated",
    "authentication",
    "authorization", "authorized", "bad", "busy", "cache", "chunk", "command", "connection",
    "connections",
    "credentials", "data", "denied", "disabled", "error", "exceeded", "expired", "fail", "failed",
    "failure",
    "for", "format", "in", "incorrect", "internal", "invalid", "is", "large", "length", "limit",
    "limited", "line",
    "locked", "long", "many", "mechanism", "memory", "missing", "no", "not", "object", "of", "open",
    "or", "out",
    "password", "permission", "quota", "rate", "refused", "rejected", "request", "required", "sasl",
    "server",
    "storing", "supported", "temporarily", "temporary", "token", "too", "try", "again", "later",
    "unauthenticated", "unauthorized", "unavailable", "unknown", "unsupported", "user", "username",
    "wrong",
];

/// The reason why a username and a password cannot be sent as one line, separated by a space.
pub fn invalid_reason(username: &str, password: &str) -> Option<&'static str> {
    if username.is_empty() || username.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("username must not be empty or contain whitespace or control characters")
    } else if password.contains(char::is_control) {
        Some("password must not contain control characters")
    } else if COMMANDS.contains(&username) {
        Some("username must not be the name of a memcached command")
    } else {
        None
    }
}

/// # Format
/// ```text
/// set _ _ _ <bytes>\r\n<user> <password>\r\n   ->   STORED\r\n
/// ```
async fn ascii(
    mut stream: Box<dyn Io>,
    username: &str,
    password: &str,
) -> Result<Box<dyn Io>, Cause> {
    let credentials = Zeroizing::new([username, password].join(" "));
    let command = Command::Auth { credentials: credentials.as_bytes() };
    let request = Request::Command(command);
    exchange(
        &mut stream,
        Dialect::default(),
        &request,
        |_| Ok(()),
        |reply| match reply {
            Reply::Error(ErrorLine { line, .. }) => {
                Err(Cause::LoginRefused(redact_refusal(line, password).into()))
            }
            Reply::Stored => Ok(()),
            // No server says that a login was not stored.
            _ => Err(Cause::LoginRefused("the login was not stored".into())),
        },
    )
    .await?;
    Ok(stream)
}

/// SASL PLAIN. After the login the connection speaks the binary protocol.
async fn sasl(
    mut stream: Box<dyn Io>,
    username: &str,
    password: &str,
) -> Result<Box<dyn Io>, Cause> {
    let refused = |why: &str| Err(Cause::LoginRefused(why.into()));
    let mut request = BytesMut::with_capacity(64 + username.len() + password.len());
    binary::sasl_mechanisms(&mut request);
    match sasl_exchange(&mut stream, &mut request).await? {
        SaslAnswer::Ok(offered) if offered.split(|&b| b == b' ').any(|m| m == b"PLAIN") => {}
        SaslAnswer::Ok(offered) => {
            let offered = redact_refusal(&offered, password);
            return refused(&format!("the server offers '{offered}' but not PLAIN"));
        }
        SaslAnswer::Refused(words) => return refused(&redact_refusal(&words, password)),
        SaslAnswer::Unknown => return refused("the server does not support SASL"),
    }
    binary::sasl_plain(username, password, &mut request);
    match sasl_exchange(&mut stream, &mut request).await? {
        SaslAnswer::Ok(_) => Ok(stream),
        SaslAnswer::Refused(words) => refused(&redact_refusal(&words, password)),
        SaslAnswer::Unknown => refused("the server does not support SASL"),
    }
}

/// Sends a request, wipes it from memory, and returns the response.
async fn sasl_exchange(
    stream: &mut Box<dyn Io>,
    request: &mut BytesMut,
) -> Result<SaslAnswer, Cause> {
    let sent = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    let sent = sent.await;
    request[..].zeroize();
    request.clear();
    sent.map_err(Cause::from_io)?;
    let mut answer = BytesMut::new();
    loop {
        match binary::sasl_answer(&answer).map_err(Cause::from_protocol)? {
            Some((said, len)) if len == answer.len() => return Ok(said),
            Some((_, len)) => {
                let surplus = Excerpt::from_secret(&answer[len..]);
                return Err(Cause::from_protocol(ProtocolError::Unsolicited(surplus)));
            }
            None if stream.read_buf(&mut answer).await.map_err(Cause::from_io)? == 0 => {
                return Err(Cause::Eof);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn credentials_are_a_line_and_nothing_else() {
        for (username, password) in [
            ("", "p"), ("a b", "p"), ("a\t", "p"), ("a\0", "p"), ("a", "p\r\nflush_all"),
            ("a", "p\n"), ("a", "\0"),
            ("flush_all", "0"), ("quit", "p"),
        ] {
            let login = Login::new(Mechanism::Ascii, username.into(), password.into());
            assert!(login.is_err(), "{username:?}");
        }
        let password = "a secret: with spaces é";
        assert!(Login::new(Mechanism::Ascii, "user".into(), password.into()).is_ok());
        assert!(Login::new(Mechanism::Sasl, "flush_all me".into(), "\r\n".into()).is_ok());
        assert!(Login::new(Mechanism::Sasl, "a".into(), "b\0c".into()).is_err());
    }

    #[test]
    fn only_known_words_of_a_refusal_are_shown() {
        for (words, password, shown) in [
            (
                &b"CLIENT_ERROR authentication failure"[..],
                "hunter2",
                "CLIENT_ERROR authentication failure",
            ),
            (b"Auth failure.", "hunter2", "Auth failure."),
            (b"CLIENT_ERROR bad login u hunter2", "hunter2", "CLIENT_ERROR bad login …"),
            (b"no such user: hunt\ner2", "hunt\ner2", "no … user: …"),
            (b"wrong aHVudGVyMg== hunt", "hunter2", "wrong …"),
            (b"wrong password: Denied access", "access denied", "wrong password: …"),
            (b"CRAM-MD5 DIGEST-MD5", "hunter2", "CRAM-MD5 DIGEST-MD5"),
            (b"\xff\xfe", "hunter2", "…"),
        ] {
            assert_eq!(redact_refusal(words, password), shown);
        }
    }

    #[test]
    fn a_login_does_not_show_its_password() {
        let login = Login::new(Mechanism::Ascii, "user".into(), "hunter2".into()).unwrap();
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}

//! Through which HTTP proxy an address is reached, and the tunnel through it.
//!
//! TLS goes end to end through the tunnel: the proxy sees the name and port that it is asked for, and nothing else. What the environment
//! names is used as kubectl uses it: never for a loopback address, nor for what `NO_PROXY` names.

use std::{io, net::IpAddr};

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Most bytes of a proxy's answer.
const MAX_ANSWER: usize = 8 << 10;

/// The text names no usable proxy. The text itself is not told: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not http://[USER:PASSWORD@]HOST[:PORT]; proxies that speak TLS themselves or SOCKS are not supported")]
pub struct InvalidProxy;

/// A proxy that opens tunnels (CONNECT).
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Reads `[http://][USER:PASSWORD@]HOST[:PORT]`; user and password are percent-encoded, the port is 80 if there is none.
    ///
    /// # Errors
    /// Where the text is nothing of the kind.
    pub fn parse(text: &str) -> Result<Self, InvalidProxy> {
        let matcher = Matcher::builder().https(text.trim()).build();
        let found = matcher.intercept(&Uri::from_static("https://gateway.invalid")).ok_or(InvalidProxy)?;
        let uri = found.uri();
        let host = uri.host().map(bare).filter(|host| !host.is_empty()).ok_or(InvalidProxy)?;
        if uri.scheme_str() != Some("http") {
            return Err(InvalidProxy);
        }
        let authorization = found.basic_auth().cloned().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Ok(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(80), authorization })
    }

    /// Where the proxy listens.
    #[must_use]
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Asks for a tunnel to `host` and `port`; what follows on `stream` is between the two ends.
    ///
    /// # Errors
    /// Where the proxy does not answer with a success; the message has its status line.
    pub async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        host: &str,
        port: u16,
    ) -> io::Result<()> {
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
        if let Some(authorization) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(authorization.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await?;
        let answer = head(stream).await.map_err(|error| self.failed(&error.to_string()))?;
        match opened(&answer) {
            Ok(()) => Ok(()),
            Err(line) => Err(self.failed(&format!("answered {line:?}"))),
        }
    }

    fn failed(&self, what: &str) -> io::Error {
        io::Error::other(format!("the proxy at {}:{} {what}", self.host, self.port))
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The host and whether somebody signs in there, never how.
        f.debug_struct("Proxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("signs_in", &self.authorization.is_some())
            .finish()
    }
}

/// What the environment says about proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    /// `HTTPS_PROXY`, in either spelling.
    pub https_proxy: Option<String>,
    /// `NO_PROXY`, in either spelling.
    pub no_proxy: Option<String>,
}

impl Variables {
    /// Those of this process; an empty one is none.
    #[must_use]
    pub fn read() -> Self {
        let named = |names: [&str; 2]| {
            names.into_iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
        };
        Self { https_proxy: named(["HTTPS_PROXY", "https_proxy"]), no_proxy: named(["NO_PROXY", "no_proxy"]) }
    }
}

/// The proxy that the environment's variables name for `server`.
///
/// # Errors
/// Where there is one and its text cannot be used.
pub fn from_environment(
    server: &Uri,
    https_proxy: Option<&str>,
    no_proxy: Option<&str>,
) -> Result<Option<Proxy>, InvalidProxy> {
    match https_proxy.filter(|text| !text.trim().is_empty()) {
        Some(text) if !is_direct(server, no_proxy.unwrap_or_default()) => Proxy::parse(text).map(Some),
        _ => Ok(None),
    }
}

/// Whether `server` is reached without a proxy of the environment: a loopback address, or one of `except`, a list like `NO_PROXY`'s.
#[must_use]
pub fn is_direct(server: &Uri, except: &str) -> bool {
    let host = bare(server.host().unwrap_or_default());
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    // The matcher wants some proxy to say what is not for it.
    let others = Matcher::builder().all("http://proxy.invalid").no(except).build();
    loopback || others.intercept(server).is_none()
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Reads up to the empty line and not one byte further: what follows belongs to the tunnel.
async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_ANSWER {
            return Err(io::Error::other("answered with more than 8 KiB"));
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::other("closed the connection instead of an answer"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// Whether the status line is one of success, or the line.
fn opened(answer: &[u8]) -> Result<(), String> {
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line: String = String::from_utf8_lossy(line).chars().filter(|letter| !letter.is_control()).take(200).collect();
    let mut words = line.split(' ');
    let http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let success = words.next().is_some_and(|code| code.len() == 3 && code.starts_with('2'));
    if http && success { Ok(()) } else { Err(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_address_and_what_is_excepted_is_reached_directly() {
        let direct = |server: &str, except: &str| is_direct(&server.parse().unwrap(), except);
        for server in ["https://127.0.0.1:6443", "https://127.8.0.1", "https://[::1]:6443", "https://localhost:1"] {
            assert!(direct(server, ""), "{server}");
        }
        for (server, except) in [
            ("https://10.1.2.3:6443", "10.0.0.0/8"),
            ("https://10.1.2.3", "192.0.2.1, 10.1.2.3"),
            ("https://api.cluster.example:6443", ".cluster.example"),
            ("https://api.cluster.example", "cluster.example"),
            ("https://anything.example", "*"),
        ] {
            assert!(direct(server, except), "{server} {except}");
            assert!(!direct(server, ""), "{server}");
        }
        assert!(!direct("https://api.cluster.example", "other.example,10.0.0.0/8"));
    }

    #[test]
    fn proxies_are_http_urls_and_their_password_is_never_shown() {
        let parse = |text: &str| Proxy::parse(text).map(|proxy| (proxy.host.clone(), proxy.port));
        assert_eq!(parse("http://proxy.example:3128"), Ok(("proxy.example".to_owned(), 3128)));
        assert_eq!(parse(" proxy.example:3128\n"), Ok(("proxy.example".to_owned(), 3128)));
        assert_eq!(parse("http://[2001:db8::1]:8080/"), Ok(("2001:db8::1".to_owned(), 8080)));
        assert_eq!(parse("http://proxy.example"), Ok(("proxy.example".to_owned(), 80)));
        for text in ["", "https://proxy.example", "socks5://proxy.example:1080", "ftp://x", "http://", "a b"] {
            assert_eq!(parse(text), Err(InvalidProxy), "{text}");
        }
        let signed = Proxy::parse("http://site%2D7:p%40ss@proxy.example:1").unwrap();
        // The standard's encoding of site-7:p@ss.
        assert_eq!(signed.authorization.as_ref().unwrap().as_bytes(), b"Basic c2l0ZS03OnBAc3M=");
        let shown = format!("{signed:?}");
        assert!(shown.contains("signs_in: true") && !shown.contains("c2l0") && !shown.contains("p@ss"), "{shown}");
    }

    #[test]
    fn the_environment_names_a_proxy_for_what_is_far_away() {
        let far = "https://gateway.example:8443".parse().unwrap();
        let near = "https://127.0.0.1:8443".parse().unwrap();
        let named = |server, no| from_environment(server, Some("http://proxy.example:3128"), no);
        assert_eq!(named(&far, None).unwrap(), Some(Proxy::parse("proxy.example:3128").unwrap()));
        assert_eq!(named(&far, Some(".example")), Ok(None));
        assert_eq!(named(&near, None), Ok(None));
        assert_eq!(from_environment(&far, None, None), Ok(None));
        assert_eq!(from_environment(&far, Some(""), None), Ok(None));
        assert_eq!(from_environment(&far, Some("socks5://proxy.example"), None), Err(InvalidProxy));
    }

    async fn ask(proxy: &Proxy, answer: &[u8]) -> (String, Result<Vec<u8>, String>) {
        let (mut near, mut far) = tokio::io::duplex(64 << 10);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let asked = proxy.tunnel(&mut near, "gateway.example", 8443).await.map_err(|error| error.to_string());
        let mut rest = Vec::new();
        if asked.is_ok() {
            near.read_to_end(&mut rest).await.unwrap();
        }
        drop(near);
        let mut request = String::new();
        far.read_to_string(&mut request).await.unwrap();
        (request, asked.map(|()| rest))
    }

    #[tokio::test]
    async fn a_tunnel_begins_right_behind_the_proxy_s_answer() {
        let proxy = Proxy::parse("http://u:p@proxy.example:3128").unwrap();
        let (request, rest) = ask(&proxy, b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n\x16\x03").await;
        assert_eq!(
            request,
            "CONNECT gateway.example:8443 HTTP/1.1\r\nHost: gateway.example:8443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        );
        assert_eq!(rest.unwrap(), b"\x16\x03", "nothing of the tunnel is swallowed");
        for (answer, told) in [
            (&b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], "407 Proxy Authentication Required"),
            (b"SSH-2.0-OpenSSH\r\n\r\n", "SSH-2.0"),
            (b"HTTP/1.1 2000 no\r\n\r\n", "2000"),
            (b"", "closed the connection"),
            (&[b'x'; MAX_ANSWER + 1], "8 KiB"),
        ] {
            let error = ask(&proxy, answer).await.1.unwrap_err();
            assert!(error.contains(told) && error.contains("proxy.example:3128"), "{error}");
            assert!(!error.contains("dTpw"), "{error}");
        }
    }
}

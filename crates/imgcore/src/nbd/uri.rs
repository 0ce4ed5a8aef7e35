//! Addresses of exports, as in `nbd://host:10809/export`.
//!
//! # Spec
//!
//! `doc/uri.md` of the NBD project; the names of the TLS parameters that it leaves open are those of libnbd.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Stop;
use super::wire::{MAX_STRING, PORT};

/// Where an export is, and how it is reached.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Uri {
    /// As it was written.
    text: String,
    address: Address,
    export: String,
    tls: Option<TlsSettings>,
    stop: Stop,
}

/// What a server listens on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// A host's name or number, and a port.
    Tcp(String, u16),
    /// A path, or a name in the abstract namespace behind a NUL.
    Unix(Vec<u8>),
}

/// How a connection is encrypted; the server has to prove who it is, by a certificate or by knowing a key.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct TlsSettings {
    /// The file with the keys that both sides share, or its folder; then there are no certificates.
    pub keys: Option<PathBuf>,
    /// Whose key it is.
    pub user: Option<String>,
    /// The folder with `ca-cert.pem`, and with `client-cert.pem` and `client-key.pem` if the client says who it is.
    pub certificates: Option<PathBuf>,
    /// The name that the server's certificate must have, where it is not that of the host.
    pub hostname: Option<String>,
}

/// Why a text is no address of an export.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{uri}` is not an NBD address that can be used: {why}")]
pub struct UriError {
    uri: String,
    why: String,
}

impl Uri {
    /// Returns whether `name` is meant as such an address.
    #[must_use]
    pub fn is_meant(name: &[u8]) -> bool {
        SCHEMES.iter().any(|(scheme, _, _)| rest_of(name, scheme).is_some())
    }

    /// Returns the address that `text` says; a relative path in it begins at `folder`.
    ///
    /// # Errors
    ///
    /// For what breaks the rules of such addresses, and for parameters that are not known or not supported.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, UriError> {
        Self::read(text, folder).map_err(|why| UriError { uri: text.escape_debug().to_string(), why })
    }

    fn read(text: &str, folder: &Path) -> Result<Self, String> {
        let scheme =
            SCHEMES.iter().find_map(|(scheme, unix, tls)| Some((rest_of(text.as_bytes(), scheme)?.len(), *unix, *tls)));
        let (rest, unix, tls) = scheme.ok_or("it begins with `nbd://`, `nbds://`, `nbd+unix://` or `nbds+unix://`")?;
        let rest = text.get(text.len().saturating_sub(rest)..).unwrap_or_default();
        if rest.contains('#') {
            return Err("it has a fragment".to_owned());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, authority) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        // Spec: "the path part of the URI except for the leading `/` character MUST be passed to the server as the export name"
        let export = String::from_utf8(decode(path)?).map_err(|_| "the export's name is not UTF-8")?;
        if export.contains('\0') || export.len() > MAX_STRING {
            return Err("the export's name has a NUL, or more than 4096 bytes".to_owned());
        }
        let parameters = Parameters::read(query, folder)?;
        let address = match (unix, parameters.socket) {
            (true, Some(socket)) if authority.is_empty() || tls => Address::Unix(socket),
            (true, Some(_)) => return Err("it names a host and a socket; three slashes come before the export".to_owned()),
            // Spec: "The query parameters MUST include a parameter called `socket`"
            (true, None) => return Err("the parameter `socket` is missing, as in `nbd+unix:///?socket=PATH`".to_owned()),
            (false, Some(_)) => return Err("`socket` belongs to `nbd+unix://`".to_owned()),
            (false, None) => host(authority)?,
        };
        let settings = settings(parameters.tls, parameters.tls_type.as_deref(), user)?;
        if !tls && settings != TlsSettings::default() {
            return Err("encryption begins with `nbds`".to_owned());
        }
        // What a certificate has to say, as libnbd takes it.
        let hostname = (unix && tls && !authority.is_empty() && settings.keys.is_none()).then(|| authority.to_owned());
        let settings = TlsSettings { hostname: settings.hostname.or(hostname), ..settings };
        Ok(Self { text: text.to_owned(), address, export, tls: tls.then_some(settings), stop: Stop::default() })
    }

    /// Returns it as one whose server is waited for until `stop` says otherwise.
    #[must_use]
    pub fn with_stop(self, stop: Stop) -> Self {
        Self { stop, ..self }
    }

    /// Returns what says that the server is not waited for any longer.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Returns the address of the server.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the name of the export; empty for the server's default.
    #[must_use]
    pub fn export(&self) -> &str {
        &self.export
    }

    /// Returns how the connection is encrypted, if it has to be.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsSettings> {
        self.tls.as_ref()
    }

    /// Lets the key be that of `user` where the address takes one and does not say whose.
    #[must_use]
    pub fn with_user(mut self, user: Option<&str>) -> Self {
        if let Some(tls) = &mut self.tls
            && tls.keys.is_some()
            && tls.user.is_none()
        {
            tls.user = user.map(str::to_owned);
        }
        self
    }

    /// Returns the address as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What follows the question mark.
#[derive(Default)]
struct Parameters {
    socket: Option<Vec<u8>>,
    tls: TlsSettings,
    tls_type: Option<String>,
}

impl Parameters {
    fn read(query: &str, folder: &Path) -> Result<Self, String> {
        let mut found = Self::default();
        let mut seen = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if seen.contains(&key) {
                return Err(format!("the parameter `{}` is there twice", key.escape_debug()));
            }
            seen.push(key);
            let value = decode(value)?;
            let text = || String::from_utf8(value.clone()).map_err(|_| format!("the parameter `{key}` is not UTF-8"));
            match key {
                "socket" if value.is_empty() => return Err("the parameter `socket` is empty".to_owned()),
                "socket" if value.first() == Some(&0) => found.socket = Some(value),
                "socket" => found.socket = Some(folder.join(OsStr::from_bytes(&value)).into_os_string().into_encoded_bytes()),
                "tls-certificates" => found.tls.certificates = Some(folder.join(OsStr::from_bytes(&value))),
                "tls-hostname" => found.tls.hostname = Some(text()?),
                "tls-verify-peer" if value == b"1" => {}
                "tls-verify-peer" => return Err("a server that does not prove who it is is not talked to".to_owned()),
                "tls-psk-file" => found.tls.keys = Some(folder.join(OsStr::from_bytes(&value))),
                "tls-username" => found.tls.user = Some(text()?),
                "tls-type" => found.tls_type = Some(text()?),
                // Spec: "Any other query parameters which the client does not understand SHOULD be diagnosed by the parser."
                _ => return Err(format!("the parameter `{}` is not known", key.escape_debug())),
            }
        }
        Ok(found)
    }
}

/// Returns how to encrypt, where `user` is in front of the host.
fn settings(tls: TlsSettings, kind: Option<&str>, user: Option<&str>) -> Result<TlsSettings, String> {
    let user = user.map(|user| String::from_utf8(decode(user)?).map_err(|_| "the user's name is not UTF-8".to_owned()));
    let settings = match (user.transpose()?, &tls.user) {
        (Some(user), Some(other)) if user != *other => return Err("it names two users".to_owned()),
        (Some(user), _) => TlsSettings { user: Some(user), ..tls },
        (None, _) => tls,
    };
    let by_key = settings.keys.is_some();
    match kind {
        None => {}
        Some("psk") if by_key => {}
        Some("x509") if !by_key => {}
        Some("psk") => return Err("where the keys are is not said: `tls-psk-file=FILE` is missing".to_owned()),
        Some("x509") => return Err("`tls-psk-file` is about keys, and `tls-type` about certificates".to_owned()),
        // Whoever is in between could be anybody.
        Some(_) => return Err("the `tls-type` of servers that prove who they are is `x509` or `psk`".to_owned()),
    }
    if by_key && (settings.certificates.is_some() || settings.hostname.is_some()) {
        return Err("it has both keys, of `tls-psk-file`, and what is about certificates".to_owned());
    }
    if !by_key && settings.user.is_some() {
        return Err("a user has a key: `tls-psk-file=FILE` is missing, and `nbds`".to_owned());
    }
    if settings.user.as_ref().is_some_and(|user| user.is_empty() || user.contains('\0')) {
        return Err("the user's name is empty, or has a NUL".to_owned());
    }
    Ok(settings)
}

/// Returns the host and the port in `authority`.
fn host(authority: &str) -> Result<Address, String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("a bracket is open")?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port.strip_prefix(':') {
        // Spec: "If the `port` field is not present then it MUST default to the NBD port number assigned by IANA (10809)."
        Some("") => PORT,
        None if port.is_empty() => PORT,
        Some(number) => number.parse().ok().filter(|port| *port > 0).ok_or("the port is not a number from 1 to 65535")?,
        None => return Err("there is text between the host and the port".to_owned()),
    };
    let host = String::from_utf8(decode(host)?).map_err(|_| "the host is not UTF-8")?;
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    Ok(Address::Tcp(host, port))
}

/// Returns the bytes that `text` stands for: `%41` is one byte.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        if *first != b'%' {
            out.push(*first);
            rest = behind;
            continue;
        }
        let digits = behind.split_at_checked(2).and_then(|(digits, behind)| {
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            Some((u8::from_str_radix(digits, 16).ok()?, behind))
        });
        let (byte, behind) = digits.ok_or("two hexadecimal digits follow each `%`")?;
        out.push(byte);
        rest = behind;
    }
    Ok(out)
}

fn rest_of<'a>(name: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    name.strip_prefix(scheme.as_bytes())?.strip_prefix(b"://")
}

/// Each with whether it is about a Unix socket, and encrypted.
const SCHEMES: &[(&str, bool, bool)] =
    &[("nbd", false, false), ("nbds", false, true), ("nbd+unix", true, false), ("nbds+unix", true, true)];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Address, Uri};

    fn parse(text: &str) -> Result<Uri, String> {
        Uri::parse(text, Path::new("/w")).map_err(|error| error.to_string())
    }

    #[test]
    fn hosts_sockets_and_exports_are_found() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (text, address, export) in [
            ("nbd://h", tcp("h", 10809), ""),
            ("nbd://h/", tcp("h", 10809), ""),
            ("nbd://h:1//disk", tcp("h", 1), "/disk"),
            ("nbd://[::1]:2/hello%20world", tcp("::1", 2), "hello world"),
            ("nbd+unix:///x?socket=s", Address::Unix(b"/w/s".to_vec()), "x"),
            ("nbd+unix://?socket=/s%3F", Address::Unix(b"/s?".to_vec()), ""),
            ("nbd+unix:///?socket=%00a", Address::Unix(b"\0a".to_vec()), ""),
        ] {
            let uri = parse(text).unwrap();
            assert_eq!((uri.address(), uri.export(), uri.as_str()), (&address, export, text));
            assert!(uri.tls().is_none() && Uri::is_meant(text.as_bytes()));
        }
        let tls = parse("nbds+unix:///?socket=s&tls-certificates=pki&tls-hostname=h&tls-verify-peer=1&tls-type=x509").unwrap();
        let tls = tls.tls().unwrap();
        assert_eq!(tls.certificates.as_deref(), Some(Path::new("/w/pki")));
        assert_eq!(tls.hostname.as_deref(), Some("h"));
    }

    #[test]
    fn users_and_their_keys_are_found() {
        for (text, user) in [
            ("nbds://alice@h:1/x?tls-psk-file=k", Some("alice")),
            ("nbds://h:1/x?tls-psk-file=k&tls-username=alice&tls-type=psk", Some("alice")),
            ("nbds://alice@h/?tls-username=alice&tls-psk-file=/w/k", Some("alice")),
            ("nbds://a%40b@[::1]:2/?tls-psk-file=k", Some("a@b")),
            ("nbds+unix://alice@/x?socket=s&tls-psk-file=k", Some("alice")),
            ("nbds+unix://localhost/x?socket=s&tls-psk-file=k", None),
            ("nbds://h/?tls-psk-file=k", None),
        ] {
            let uri = parse(text).unwrap();
            let tls = uri.tls().unwrap();
            assert_eq!((tls.keys.as_deref(), tls.user.as_deref()), (Some(Path::new("/w/k")), user), "{text}");
            assert_eq!((&tls.hostname, &tls.certificates), (&None, &None));
            let uri = uri.with_user(Some("bob"));
            assert_eq!(uri.tls().unwrap().user.as_deref(), user.or(Some("bob")));
        }
        assert!(parse("nbds://h/?tls-certificates=c").unwrap().with_user(Some("bob")).tls().unwrap().user.is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "nbd:h:1",
            "nbd://",
            "nbd://h:0",
            "nbd://h:99999",
            "nbd://h:x",
            "nbd://[::1",
            "nbd://[::1]x",
            "nbd://u@h",
            "nbd://h/%",
            "nbd://h/%4",
            "nbd://h/%+1",
            "nbd://h/%ff",
            "nbd://h/%00",
            "nbd://h/x#y",
            "nbd://h/?socket=s",
            "nbd://h/?x=1",
            "nbd://h/?tls-hostname=x",
            "nbd+unix://h/?socket=s",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "nbd+unix:///x?socket=a&socket=b",
            "nbds://h/?tls-type=psk",
            "nbds://h/?tls-type=anon",
            "nbds://u@h/",
            "nbds://u@h/?tls-certificates=c",
            "nbds://u@h/?tls-psk-file=k&tls-certificates=c",
            "nbds://u@h/?tls-psk-file=k&tls-hostname=h",
            "nbds://u@h/?tls-psk-file=k&tls-type=x509",
            "nbds://u@h/?tls-psk-file=k&tls-username=v",
            "nbds://@h/?tls-psk-file=k",
            "nbds://%00@h/?tls-psk-file=k",
            "nbd://u@h/?tls-psk-file=k",
            "nbds://h/?tls-verify-peer=maybe",
            "nbds://h/?tls-verify-peer=0",
        ] {
            parse(text).unwrap_err();
        }
        assert!(!Uri::is_meant(b"nbd:h:1") && !Uri::is_meant(b"./nbd://h"));
    }
}

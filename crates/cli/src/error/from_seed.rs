//! What failures of seeds are to a command.

use seed::{document, guest, iso, keys, network, plan};

use super::{CommandError, ErrorKind};

impl From<keys::minion::Error> for CommandError {
    fn from(error: keys::minion::Error) -> Self {
        let kind = match error {
            keys::minion::Error::Make(_) => ErrorKind::Unexpected,
            _ => ErrorKind::Usage,
        };
        Self::from_source(kind, None, error)
    }
}

impl From<keys::ssh::Error> for CommandError {
    fn from(error: keys::ssh::Error) -> Self {
        let hint = "a public key is one line, as in `~/.ssh/id_ed25519.pub`";
        Self::from_source(ErrorKind::Usage, Some(hint), error)
    }
}

impl From<document::Error> for CommandError {
    fn from(error: document::Error) -> Self {
        let hint = match error {
            document::Error::OffNetwork { .. } => Some("a NoCloud seed says it, to guests with netplan"),
            _ => None,
        };
        Self::from_source(ErrorKind::Usage, hint, error)
    }
}

impl From<document::TreeError> for CommandError {
    fn from(error: document::TreeError) -> Self {
        Self::from_source(ErrorKind::Usage, None, error)
    }
}

impl From<keys::ssh::HostKeyError> for CommandError {
    fn from(error: keys::ssh::HostKeyError) -> Self {
        Self::from_source(ErrorKind::Unexpected, None, error)
    }
}

impl From<network::Error> for CommandError {
    fn from(error: network::Error) -> Self {
        Self::from_source(ErrorKind::Usage, None, error)
    }
}

impl From<guest::Error> for CommandError {
    fn from(error: guest::Error) -> Self {
        let (kind, hint) = match error {
            guest::Error::FileSystem { partition, source } => {
                return Self::from(source).context(format!("{} of the guest cannot be read", partition.described()));
            }
            guest::Error::NoRoot(_) => {
                (ErrorKind::Unsupported, Some("the root must be ext4; `vmimg disk inspect` says what is there"))
            }
            guest::Error::SeveralRoots(_) => (ErrorKind::Usage, Some("name the one to use with `--partition N`")),
            guest::Error::TooManyNames(_) => {
                (ErrorKind::Refused, Some("no guest needs such a folder: remove it, or take another image"))
            }
            guest::Error::ReadOnly(_) | guest::Error::Mounted { .. } => (ErrorKind::Unsupported, None),
            _ => (ErrorKind::Refused, None),
        };
        Self::from_source(kind, hint, error)
    }
}

impl From<plan::Error> for CommandError {
    fn from(error: plan::Error) -> Self {
        match error {
            plan::Error::Guest(error) => error.into(),
            error => Self::from_source(ErrorKind::Usage, None, error),
        }
    }
}

impl From<iso::LabelError> for CommandError {
    fn from(error: iso::LabelError) -> Self {
        Self::from_source(ErrorKind::Usage, None, error)
    }
}

impl From<iso::Error> for CommandError {
    fn from(error: iso::Error) -> Self {
        let kind = match error {
            iso::Error::Storage(error) => return error.into(),
            iso::Error::Corrupt { .. } | iso::Error::Different { .. } | iso::Error::NotIso => ErrorKind::Corrupt,
            iso::Error::Unsupported { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Usage,
        };
        Self::from_source(kind, None, error)
    }
}

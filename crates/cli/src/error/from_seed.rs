//! What failures of seeds are to a command.

use seed::{document, keys};

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
        Self::from_source(ErrorKind::Usage, None, error)
    }
}

impl From<document::TreeError> for CommandError {
    fn from(error: document::TreeError) -> Self {
        Self::from_source(ErrorKind::Usage, None, error)
    }
}

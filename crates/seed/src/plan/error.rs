use imgcore::fs::PathError;

use crate::guest;

/// The failure to plan what a seed asks for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The guest has no such account, and the seed does not ask to make it.
    #[error("the guest has no user `{name}`{}", suggestion(.nearest.as_deref()))]
    UnknownUser {
        /// The name in the seed.
        name: String,
        /// The name in the guest that is most like it.
        nearest: Option<String>,
    },
    /// The guest has no such group.
    #[error("the guest has no group `{0}`")]
    UnknownGroup(String),
    /// A value of the seed cannot be used.
    #[error("{what} `{value}` cannot be used: {rule}")]
    Invalid {
        /// What the value is, as in `the host name`.
        what: &'static str,
        /// The value; a secret is never one.
        value: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// A path of the seed is no guest path.
    #[error("`{path}` is no path in a guest")]
    Path {
        /// The text.
        path: String,
        /// Why.
        source: PathError,
    },
    /// The seed names a file of the host whose contents were not given.
    #[error("the contents of `{0}` were not given")]
    MissingSource(String),
    /// Host keys are to be minted but none were given.
    #[error("host keys are to be minted, but none were given")]
    MissingHostKeys,
    /// Two parts of the seed write the same file.
    #[error("the seed writes `{0}` twice")]
    Twice(String),
    /// Something of another kind is where a file or folder of the guest should be.
    #[error("`{path}` in the guest is not a {wanted}")]
    InTheWay {
        /// Where.
        path: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Text cannot be written as YAML.
    #[error("the minion's configuration cannot be written as YAML: {0}")]
    Yaml(String),
    /// The guest could not be read, or a path cannot be reached.
    #[error(transparent)]
    Guest(#[from] guest::Error),
}

fn suggestion(name: Option<&str>) -> String {
    name.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

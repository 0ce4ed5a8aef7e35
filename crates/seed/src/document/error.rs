use super::TreeError;

/// The failure to make a seed document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value cannot be stated in the document.
    #[error("{what} {rule}")]
    Value {
        /// What the value is.
        what: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A router is in none of its interface's networks, which a config drive has no word for.
    #[error("the config drive cannot say that the router {router} is on the link of {interface}, in none of its networks")]
    OffNetwork {
        /// The interface's name.
        interface: String,
        /// The router.
        router: std::net::IpAddr,
    },
    /// The documents and injected files do not form a tree.
    #[error("the seed's files do not form a tree")]
    Tree(#[from] TreeError),
    /// A value cannot be written as YAML.
    #[error("{what} cannot be written as YAML")]
    Yaml {
        /// The document.
        what: &'static str,
        /// What the serializer says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value cannot be written as JSON.
    #[error("{what} cannot be written as JSON")]
    Json {
        /// The document.
        what: &'static str,
        /// What the serializer says.
        #[source]
        source: serde_json::Error,
    },
}

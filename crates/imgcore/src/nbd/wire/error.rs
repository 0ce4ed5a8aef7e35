/// Bytes of the peer that break a rule of the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what}: {rule}")]
pub struct Malformed {
    /// The message or the field.
    pub what: &'static str,
    /// What holds for it and does not here.
    pub rule: &'static str,
}

impl Malformed {
    /// Returns the error for `what`, of which `rule` does not hold.
    #[must_use]
    pub fn new(what: &'static str, rule: &'static str) -> Self {
        Self { what, rule }
    }
}

//! The two forms in which verbs report.

/// `--output`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Output {
    Human,
    Json,
}

use std::collections::BTreeMap;

use imgcore::fs::EditPlan;
use serde::Serialize;

use crate::guest::VolumeId;

/// What will be done to a guest, and what else came of it.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Planned {
    /// The edits, by partition or logical volume. Their paths are those inside it.
    pub edits: BTreeMap<VolumeId, EditPlan>,
    /// What the reader should know.
    pub notes: Vec<Note>,
    /// Lines for a `known_hosts` file.
    pub known_hosts: Vec<String>,
    /// The public half of the minion's key, for its master.
    pub minion: Option<MinionKey>,
}

/// A minion's public key, and the name that its master knows it by.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct MinionKey {
    /// The minion id: a checked file name for the master's `minions` folder.
    pub id: String,
    /// The contents of that file.
    pub public: String,
}

/// Something that the reader of a plan should know.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "level", content = "text", rename_all = "lowercase")]
pub enum Note {
    /// It is so on purpose.
    Info(String),
    /// It may not be what is wanted.
    Warning(String),
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Info(text) => write!(f, "note: {text}"),
            Self::Warning(text) => write!(f, "warning: {text}"),
        }
    }
}

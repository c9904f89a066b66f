//! One thing that the doctor found.

use serde::Serialize;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Missing or slow, and guests do without.
    Fair,
    /// It hurts, and the user can mend it.
    Bad,
}

/// What was looked at, what was found, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// Stable name, for programs.
    pub name: &'static str,
    pub verdict: Verdict,
    /// One sentence.
    pub says: String,
    pub remedy: Option<Remedy>,
}

/// What mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Remedy {
    /// A command, for a shell.
    pub command: String,
    /// Where it is to be run, or what is left to do after it, where that is not here and nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

impl Remedy {
    /// A command that does all of it.
    pub fn command(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            note: None,
        }
    }

    /// A command with what else has to be known.
    pub fn with_note(command: impl Into<String>, note: &'static str) -> Self {
        Self {
            command: command.into(),
            note: Some(note),
        }
    }
}

impl Finding {
    /// As it should be.
    pub fn good(name: &'static str, says: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Good,
            says: says.into(),
            remedy: None,
        }
    }

    /// Guests do without.
    pub fn fair(name: &'static str, says: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Fair,
            says: says.into(),
            remedy: None,
        }
    }

    /// It hurts; `remedy` mends it.
    pub fn bad(name: &'static str, says: impl Into<String>, remedy: Remedy) -> Self {
        Self {
            name,
            verdict: Verdict::Bad,
            says: says.into(),
            remedy: Some(remedy),
        }
    }

    /// The same with what would make it better.
    pub fn or_better_by(mut self, command: impl Into<String>) -> Self {
        self.remedy = Some(Remedy::command(command));
        self
    }
}

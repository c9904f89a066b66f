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
    /// A command, or a step that no command can do.
    pub remedy: Option<String>,
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
    pub fn bad(name: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Bad,
            says: says.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// The same with what would make it better.
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

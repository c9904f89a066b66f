//! What ours is held against. The groups' order is the table's.

/// The bars of a group's geometric mean; `None` where there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) group: &'static str,
    pub(crate) title: &'static str,
    /// Times TCG's rate.
    pub(crate) over_tcg: f64,
    /// Of native speed.
    pub(crate) over_native: Option<f64>,
}

const fn goal(group: &'static str, title: &'static str, over_tcg: f64, over_native: Option<f64>) -> Goal {
    Goal {
        group,
        title,
        over_tcg,
        over_native,
    }
}

pub(crate) const GOALS: [Goal; 5] = [
    goal("integer", "plain integer", 2.0, Some(0.45)),
    goal("float", "floating point", 15.0, Some(0.4)),
    goal("memory", "memory", 4.0, None),
    goal("kernel", "kernel", 5.0, None),
    goal("programs", "programs", 4.0, None),
];

/// For the geometric mean of the groups' means.
pub(crate) const ALL_OVER_TCG: f64 = 5.0;

/// Any single test reaches one of these.
pub(crate) const SINGLE_OVER_TCG: f64 = 1.5;
pub(crate) const SINGLE_OVER_NATIVE: f64 = 0.9;

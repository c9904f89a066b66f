//! The table of one kind of document, ready to be looked up in.

use std::collections::HashMap;

use super::{Class, DEVICE_ROWS, Family, Row};

/// All rows of a kind of document, by full path.
pub(crate) struct Schema {
    pub(crate) root: &'static str,
    pub(crate) families: Vec<&'static Family>,
    places: HashMap<String, Place>,
}

/// What the table says of one path.
struct Place {
    /// Where it stands in the output.
    rank: usize,
    /// The class of a place that is only there for what is in it.
    implied: Class,
    rows: Vec<Row>,
}

impl Schema {
    /// Puts the table together from its families.
    pub(crate) fn new(root: &'static str, families: Vec<&'static Family>) -> Self {
        let mut schema = Self {
            root,
            families,
            places: HashMap::new(),
        };
        let mut rank = 0;
        for family in schema.families.clone() {
            let common = if family.device { DEVICE_ROWS } else { &[] };
            let base = join(root, family.base);
            for row in family.rows.iter().chain(common) {
                for path in expand(row.path) {
                    rank += 1;
                    schema.add(&join(&base, &path), rank, *row);
                }
            }
        }
        schema
    }

    /// Adds a row, and places for the elements above it.
    fn add(&mut self, path: &str, rank: usize, row: Row) {
        for (end, _) in path.match_indices(['/', '@']) {
            let above = self.place(&path[..end], rank, row.class);
            above.implied = above.implied.min(row.class);
        }
        self.place(path, rank, row.class).rows.push(row);
    }

    fn place(&mut self, path: &str, rank: usize, implied: Class) -> &mut Place {
        self.places.entry(path.to_owned()).or_insert(Place {
            rank,
            implied,
            rows: Vec::new(),
        })
    }

    /// The row for a place with a value; `Err` says whether the place is known.
    pub(crate) fn row(&self, path: &str, value: &str) -> Result<Row, bool> {
        let place = self.places.get(path).ok_or(false)?;
        if place.rows.is_empty() {
            return Ok(Row::new("", "", place.implied, ""));
        }
        let fits =
            |row: &&Row| row.values.is_empty() || row.values.split('|').any(|known| matches(known, value));
        place.rows.iter().find(fits).copied().ok_or(true)
    }

    /// The place of an element among its siblings in the output.
    pub(crate) fn rank(&self, path: &str) -> usize {
        self.places.get(path).map_or(usize::MAX, |place| place.rank)
    }
}

fn matches(known: &str, value: &str) -> bool {
    match known.strip_suffix('*') {
        Some(start) => value.starts_with(start),
        None => known == value,
    }
}

/// The path of a row below that of its family.
pub(super) fn join(base: &str, path: &str) -> String {
    match (base, path) {
        ("", path) => path.to_owned(),
        (base, "") => base.to_owned(),
        (base, path) if path.starts_with('@') => format!("{base}{path}"),
        (base, path) => format!("{base}/{path}"),
    }
}

/// The paths that one with braces stands for.
pub(super) fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let (names, after) = rest.split_once('}').expect("braces of the table are closed");
    let paths = names.split(',').map(|name| format!("{before}{name}"));
    paths
        .flat_map(|start| expand(after).into_iter().map(move |end| format!("{start}{end}")))
        .collect()
}

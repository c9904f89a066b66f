//! The tables of `docs/xml.md`.

use std::fmt::Write;

use super::{Family, Schema};

/// The head of a table.
const HEAD: &str = "| where | values | class | what it means |\n|---|---|---|---|\n";

/// A Markdown table for each family of a kind of document.
pub(crate) fn tables(schema: &Schema) -> String {
    let mut out = String::new();
    for family in &schema.families {
        let title = match family.base {
            "" => format!("{}, in `<{}>`", family.title, schema.root),
            base => format!("`{base}`"),
        };
        let _ = write!(out, "\n### {title}\n\n{HEAD}");
        rows(family, &mut out);
        if family.device {
            out.push_str("| what every device may have | | | see above |\n");
        }
    }
    out
}

fn rows(family: &Family, out: &mut String) {
    for row in family.rows {
        let place = match (row.path, row.deep) {
            ("", false) => "the element itself".to_owned(),
            ("", true) => "the element with all that is in it".to_owned(),
            (path, false) => format!("`{path}`"),
            (path, true) => format!("`{path}` with all that is in it"),
        };
        let values = row.values.replace('|', ", ");
        let _ = writeln!(
            out,
            "| {place} | {values} | {} | {} |",
            row.class.name(),
            row.note
        );
    }
}

/// All tables, for `docs/xml.md`; a test holds the two against each other.
pub fn manual() -> String {
    let mut out = format!("## What every device may have\n\n{HEAD}");
    rows(&Family::of("", super::DEVICE_ROWS), &mut out);
    for (title, schema) in crate::schemas() {
        let _ = write!(out, "\n## {title}\n{}", tables(schema));
    }
    out
}

//! The addresses at which the guest executes most.

use serde_json::Value;

/// A profile. Nothing where there is none.
pub fn table(hot: &Value) -> String {
    let (Some(samples), Some(addresses)) = (hot["samples"].as_u64(), hot["addresses"].as_array()) else {
        return String::new();
    };
    let mut out = format!(
        "\n{:<10}{:<9}{:<20}{:<40}{samples} samples\n",
        "hottest", "in", "address", "symbol"
    );
    for spot in addresses {
        let text = |name: &str| spot[name].as_str().unwrap_or_default();
        let symbol = match spot["offset"].as_u64() {
            Some(offset) => format!("{}+{offset:#x}", text("symbol")),
            None => String::new(),
        };
        let row = format!(
            "{:>6.1}%   {:<9}{:<20}{symbol}",
            spot["share"].as_f64().unwrap_or(0.0) * 100.0,
            text("privilege"),
            text("address"),
        );
        out += row.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_is_an_address_and_its_name_if_it_has_one() {
        let hot = json!({ "samples": 400, "addresses": [
            { "address": "0xffffffff81000010", "privilege": "kernel", "share": 0.75, "symbol": "schedule", "offset": 16 },
            { "address": "0x401000", "privilege": "user", "share": 0.125, "symbol": null, "offset": null },
        ] });
        let text = table(&hot);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|row| row.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows,
            [
                vec!["hottest", "in", "address", "symbol", "400", "samples"],
                vec!["75.0%", "kernel", "0xffffffff81000010", "schedule+0x10"],
                vec!["12.5%", "user", "0x401000"],
            ]
        );
    }

    #[test]
    fn without_a_profile_there_is_no_table() {
        for hot in [json!(null), json!({}), json!({ "samples": 1 })] {
            assert_eq!(table(&hot), "");
        }
    }
}

//! What a software CPU does so that guest code can execute.

use serde_json::Value;

use super::difference;

/// The counters of each CPU. Nothing where the CPUs are the host's.
pub fn table(before: &Value, now: &Value, elapsed: f64) -> String {
    let mut out = String::new();
    for index in 0..now["vcpus"].as_array().map_or(0, Vec::len) {
        let at = |name: &str| format!("/vcpus/{index}/software/{name}");
        let change = |name: &str| difference(before, now, &at(name));
        let total = |name: &str| now.pointer(&at(name)).and_then(Value::as_u64).unwrap_or(0);
        let Some(translation) = change("translation-ns") else {
            continue;
        };
        out += &format!("vcpu{index:<4}{:>11.1}%", translation as f64 / elapsed / 1e7);
        for name in [
            "blocks-decoded",
            "blocks-translated",
            "interpreter-calls",
            "tlb-misses",
        ] {
            out += &format!("{:>14.0}", change(name).unwrap_or(0) as f64 / elapsed);
        }
        out += &format!(
            "{:>8.1} MiB{:>9}\n",
            total("cache-bytes") as f64 / f64::from(1 << 20),
            total("cache-evictions")
        );
    }
    if out.is_empty() {
        return out;
    }
    format!(
        "\n{:<8}{:>12}{:>14}{:>14}{:>14}{:>14}{:>12}{:>9}\n{out}",
        "software",
        "translates",
        "decoded/s",
        "translated/s",
        "interpreted/s",
        "TLB misses/s",
        "cache",
        "evictions"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_share_of_translation_is_of_the_time_between_two_looks() {
        let look = |n: u64| {
            json!({ "vcpus": [{ "software": {
                "translation-ns": n * 500_000_000, "tlb-misses": n * 200, "blocks-decoded": null,
                "cache-bytes": 3 << 19, "cache-evictions": n,
            } }] })
        };
        let text = table(&look(1), &look(2), 2.0);
        let words: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(words, ["vcpu0", "25.0%", "0", "0", "0", "100", "1.5", "MiB", "2"]);
    }

    #[test]
    fn cpus_of_the_hosts_hardware_have_no_such_table() {
        let look = json!({ "vcpus": [{ "software": { "translation-ns": null } }] });
        assert_eq!(table(&look, &look, 1.0), "");
    }
}

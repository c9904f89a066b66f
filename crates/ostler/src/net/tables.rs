//! What switches answer, as tables for people.

use serde_json::Value;

/// Rows of cells below a heading, in columns as wide as they need.
fn table(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut all = vec![heading.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>()];
    all.extend(rows);
    let width = |column: usize| {
        let cells = all.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    all.iter().map(line).collect()
}

/// A value as a cell: text without its quotes, and without what could drive a terminal.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        other => other.to_string(),
    };
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    if text.is_empty() { "-".into() } else { text }
}

fn rows(list: &Value, pointers: &[&str]) -> Vec<Vec<String>> {
    let cells = |item: &Value| {
        let cell_at = |pointer: &&str| cell(item.pointer(pointer).unwrap_or(&Value::Null));
        pointers.iter().map(cell_at).collect()
    };
    list.as_array().into_iter().flatten().map(cells).collect()
}

pub fn switches(list: &Value) -> String {
    table(
        &["SWITCH", "PORTS", "STATIONS", "PID"],
        rows(list, &["/name", "/ports", "/stations", "/pid"]),
    )
}

pub fn switch(switch: &Value) -> String {
    let of = |pointer| cell(switch.pointer(pointer).unwrap_or(&Value::Null));
    let mut text = format!(
        "switch    {}\nprocess   {}, for {} s\nports     {}\nstations  {} of at most {}\n",
        of("/name"),
        of("/pid"),
        of("/uptime"),
        of("/ports"),
        of("/stations"),
        of("/fdb-entries"),
    );
    text += &match switch.get("stp") {
        Some(Value::Object(_)) => format!(
            "tree      bridge {}, root {} at cost {} by port {}; {} topology changes\n",
            of("/stp/id"),
            of("/stp/root"),
            of("/stp/root-path-cost"),
            of("/stp/root-port"),
            of("/stp/topology-changes"),
        ),
        _ => "tree      none\n".into(),
    };
    for router in switch
        .get("routers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let of = |pointer| cell(router.pointer(pointer).unwrap_or(&Value::Null));
        let outside = match router.get("restrict") {
            Some(Value::Bool(true)) => "isolated",
            _ => "NAT",
        };
        let address6 = router.get("address6").and_then(Value::as_str);
        let address6 = address6.map_or_else(String::new, |address| format!(" and {address}"));
        text += &format!(
            "router    port {}, {}{address6}, {outside}; {} leases, {} reservations\n",
            of("/port"),
            of("/address"),
            of("/leases"),
            of("/reservations"),
        );
    }
    text
}

pub fn leases(list: &Value) -> String {
    table(
        &["ADDRESS", "MAC", "NAME", "SECONDS LEFT", "RESERVED", "PORT"],
        rows(
            list,
            &["/address", "/mac", "/name", "/remaining", "/reserved", "/port"],
        ),
    )
}

pub fn ports(list: &Value) -> String {
    table(
        &[
            "PORT", "KIND", "PLACE", "UP", "FORWARDS", "RECEIVED", "SENT", "WHY DOWN",
        ],
        rows(
            list,
            &[
                "/name",
                "/kind",
                "/place",
                "/up",
                "/forwarding",
                "/counters/received",
                "/counters/sent",
                "/why-down",
            ],
        ),
    )
}

pub fn tree(list: &Value) -> String {
    table(
        &[
            "PORT",
            "ROLE",
            "STATE",
            "COST",
            "EDGE",
            "RSTP",
            "GUARDED",
            "DESIGNATED BRIDGE",
        ],
        rows(
            list,
            &[
                "/name",
                "/stp/role",
                "/stp/state",
                "/stp/path-cost",
                "/stp/edge",
                "/stp/rapid",
                "/stp/guarded",
                "/stp/designated-bridge",
            ],
        ),
    )
}

pub fn vlans(list: &Value) -> String {
    table(
        &["PORT", "PVID", "UNTAGGED", "TAGGED"],
        rows(
            list,
            &["/name", "/vlans/pvid", "/vlans/untagged", "/vlans/tagged"],
        ),
    )
}

pub fn counters(list: &Value) -> String {
    table(
        &[
            "PORT",
            "RECEIVED",
            "BYTES",
            "FORWARDED",
            "DROPPED",
            "SENT",
            "BYTES",
            "NOT SENT",
        ],
        rows(
            list,
            &[
                "/name",
                "/counters/received",
                "/counters/received-bytes",
                "/counters/forwarded",
                "/counters/dropped",
                "/counters/sent",
                "/counters/sent-bytes",
                "/counters/egress-dropped",
            ],
        ),
    )
}

pub fn stations(answer: &Value) -> String {
    let list = answer.get("stations").unwrap_or(&Value::Null);
    let mut text = table(
        &["STATION", "VLAN", "PORT", "AGE", "STATIC"],
        rows(list, &["/mac", "/vlan", "/port", "/age", "/static"]),
    );
    if let Some(more @ 1..) = answer.get("left-out").and_then(Value::as_u64) {
        text += &format!("and {more} more; ask for one port or VLAN\n");
    }
    text
}

pub fn groups(answer: &Value) -> String {
    let of = |name| answer.get(name).unwrap_or(&Value::Null);
    let members = table(
        &["GROUP", "VLAN", "PORT", "LEFT"],
        rows(of("members"), &["/group", "/vlan", "/port", "/left"]),
    );
    let queriers = table(
        &["QUERIER", "VLAN", "OWN", "ROUTER PORTS"],
        rows(of("queriers"), &["/address", "/vlan", "/own", "/router-ports"]),
    );
    format!("{members}\n{queriers}")
}

pub fn mirrors(list: &Value) -> String {
    table(
        &["TO", "INGRESS", "EGRESS"],
        rows(list, &["/to", "/ingress", "/egress"]),
    )
}

pub fn nothing(_: &Value) -> String {
    String::new()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let list = json!([
            { "name": "a", "vlans": { "pvid": 1, "untagged": "1", "tagged": "" } },
            { "name": "trunk", "vlans": { "pvid": null, "untagged": "", "tagged": "1-4094" } },
        ]);
        let expected =
            "PORT   PVID  UNTAGGED  TAGGED\na      1     1         -\ntrunk  -     -         1-4094\n";
        assert_eq!(super::vlans(&list), expected);
    }
}

//! What only a guest that runs has does not belong to a definition.

use crate::tree::Element;

/// Takes away what a dump of a running guest says more.
pub(crate) fn strip(root: &mut Element) {
    root.unset("id");
    let Some(devices) = root.child_mut("devices") else {
        return;
    };
    for device in devices.elements_mut() {
        let kept_alias = |alias: &Element| alias.get("name").is_some_and(|name| name.starts_with("ua-"));
        device.remove_elements(|element| element.name == "alias" && !kept_alias(element));
        match device.name.as_str() {
            "serial" | "console" | "channel" => stream(device),
            "interface" => target(device),
            "disk" => {
                if let Some(source) = device.child_mut("source") {
                    source.unset("index");
                }
                if let Some(target) = device.child_mut("target") {
                    target.unset("tray");
                }
            }
            "memory" => {
                if let Some(target) = device.child_mut("target") {
                    target.remove_elements(|element| element.name == "current");
                }
            }
            "vsock" => {
                if let Some(cid) = device
                    .child_mut("cid")
                    .filter(|cid| cid.get("auto") == Some("yes"))
                {
                    cid.unset("address");
                }
            }
            _ => {}
        }
    }
}

fn stream(device: &mut Element) {
    device.unset("tty");
    if device.get("type") == Some("pty") {
        device.remove_elements(|element| element.name == "source");
    }
    if let Some(target) = device.child_mut("target") {
        target.unset("state");
    }
}

/// Names that were given at a start.
fn target(interface: &mut Element) {
    let given = |name: &str| {
        ["vnet", "macvtap", "macvlan"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    if let Some(target) = interface.child_mut("target")
        && target.get("dev").is_some_and(given)
    {
        target.unset("dev");
    }
    interface.remove_elements(|element| element.name == "target" && element.attributes.is_empty());
}

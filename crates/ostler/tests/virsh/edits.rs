//! Definitions that are changed in an editor.

use crate::setup::{Host, field, linux};

impl Host {
    /// virsh with an editor that changes the text by itself.
    fn edited(&self, arguments: &str, script: &str) -> std::process::Output {
        let mut command = self.command(arguments);
        command.env("EDITOR", format!("sed -i {script}"));
        command.output().unwrap()
    }
}

#[test]
fn what_an_editor_writes_is_the_definition() {
    let mut host = Host::start();
    host.virsh(&format!("define {}", host.xml("a.xml", &linux("alpha", ""))));
    let before = host.virsh("dumpxml alpha");
    let edited = host.edited("edit alpha", "/vcpu/s/2/1/");
    assert!(edited.status.success(), "{edited:?}");
    assert!(String::from_utf8_lossy(&edited.stdout).contains("XML configuration edited"));
    assert_eq!(
        host.virsh("dumpxml alpha"),
        before.replace(">2</vcpu>", ">1</vcpu>")
    );
    // Who changes nothing, and who writes what cannot be.
    let same = host.edited("edit alpha", "s/nothing/else/");
    assert!(
        String::from_utf8_lossy(&same.stdout).contains("not changed"),
        "{same:?}"
    );
    let before = host.virsh("dumpxml alpha");
    let wrong = host.edited("edit alpha", "/vcpu/s/1/many/");
    assert!(
        String::from_utf8_lossy(&wrong.stderr).contains("Failed"),
        "{wrong:?}"
    );
    assert_eq!(host.virsh("dumpxml alpha"), before);
    host.virsh("desc alpha --config --new-desc Longer");
    let edited = host.edited("desc alpha --edit --config", "s/Longer/Short/");
    assert!(edited.status.success(), "{edited:?}");
    assert_eq!(host.virsh("desc alpha").trim(), "Short");

    let folder = host.path("of-pool");
    std::fs::create_dir(&folder).unwrap();
    host.virsh(&format!("pool-define-as files dir --target {}", folder.display()));
    let edited = host.edited("pool-edit files", "/path/s/of-pool/of-pool2/");
    assert!(edited.status.success(), "{edited:?}");
    let xml = host.virsh("pool-dumpxml files");
    assert!(
        xml.contains(&format!("<path>{}2</path>", folder.display())),
        "{xml}"
    );

    host.kill_and_restart();
    assert_eq!(field(&host.virsh("dominfo alpha"), "CPU(s)"), "1");
    assert_eq!(host.virsh("pool-dumpxml files"), xml);
    host.virsh("pool-build files");
    host.virsh("pool-start files");
    assert!(host.path("of-pool2").is_dir());
}

#[test]
fn what_a_document_says_is_made() {
    let host = Host::start();
    // A pool that lasts, and one that is there while it runs only.
    let pool = |name: &str| {
        let path = host.path(name);
        std::fs::create_dir(&path).unwrap();
        let path = path.display();
        let xml = format!("<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>");
        host.xml(&format!("{name}.xml"), &xml)
    };
    host.virsh(&format!("pool-define {}", pool("kept")));
    host.virsh(&format!("pool-create {}", pool("passing")));
    let shown = |filters: &str| {
        let names = host.virsh(&format!("pool-list --name {filters}"));
        names.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(shown("--inactive --persistent"), ["kept"]);
    assert_eq!(shown("--transient"), ["passing"]);
    std::fs::write(host.path("passing/disk.img"), [0; 4096]).unwrap();
    assert!(host.virsh("vol-list passing").contains("disk.img"));
    host.virsh("pool-destroy passing");
    assert_eq!(shown("--all --transient"), [""; 0]);

    // A card of a definition, with its cable taken out.
    let card = "<interface type='user'><mac address='52:54:00:77:03:01'/></interface>";
    host.virsh(&format!("define {}", host.xml("a.xml", &linux("alpha", card))));
    let before = host.virsh("dumpxml alpha");
    let down = card.replace("</interface>", "<link state='down'/></interface>");
    host.virsh(&format!(
        "update-device alpha {} --config",
        host.xml("card.xml", &down)
    ));
    let after = host.virsh("dumpxml alpha");
    assert!(
        !before.contains("<link") && after.contains("<link state='down'/>"),
        "{after}"
    );
    assert!(
        host.virsh("domif-getlink alpha 52:54:00:77:03:01 --config")
            .contains("down")
    );
}

#[test]
fn one_client_may_connect_once_more() {
    let host = Host::start();
    host.virsh(&format!("define {}", host.xml("a.xml", &linux("alpha", ""))));
    let again = format!("qemu+unix:///system?socket={}", host.path("sock").display());
    let script =
        format!("autostart alpha; connect --readonly {again}; list --all --autostart --name; undefine alpha");
    let output = host.command("").arg(script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("read only access prevents"),
        "{said}"
    );
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .any(|line| line == "alpha")
    );
    assert_eq!(host.virsh("list --all --name").trim(), "alpha");
}

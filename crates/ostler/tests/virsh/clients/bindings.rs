//! libvirt's bindings for Python, with the calls that OpenStack's nova makes, and those for Perl, in programs of the tests' own.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{unpacked, with_libraries};
use crate::setup::{Host, linux};
use crate::virtinst::{self, printed, python, uri};

#[test]
fn a_guests_life_by_the_bindings_for_python() {
    if !virtinst::is_there("a_guests_life_by_the_bindings_for_python") {
        return;
    }
    let host = Host::start();
    let disk = |name: &str, target: &str| {
        let path = host.path(name);
        fs::write(&path, vec![b'd'; 1 << 20]).unwrap();
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/><target dev='{target}' bus='virtio'/></disk>",
            path.display()
        )
    };
    let devices = disk("a.img", "vda")
        + "<interface type='user'><mac address='52:54:00:00:00:09'/><model type='virtio'/></interface>";
    let guest = host.xml("guest.xml", &linux("instance-00000001", &devices));
    let second = host.xml("second.xml", &disk("b.img", "vdb"));
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/virsh/clients/calls.py");
    let said = printed(
        python(&host)
            .arg(program)
            .args([uri(&host), guest, second])
            .arg(host.path("images")),
    );
    assert_eq!(
        said.trim(),
        "events: DEFINED STARTED SUSPENDED RESUMED SHUTDOWN STOPPED UNDEFINED"
    );
    assert_eq!(host.virsh("list --all --name").trim(), "");
}

/// What the program in Perl does: a guest's life, and a look at the host.
const PERL: &str = r#"
use strict;
use Sys::Virt;
my ($uri, $file) = @ARGV;
my $xml = do { local (@ARGV, $/) = ($file); <> };
my $conn = Sys::Virt->new(uri => $uri);
my $guest = $conn->define_domain($xml);
$guest->create();
my $info = $guest->get_info();
printf "%s: state %d, %d CPUs, %d KiB\n", $guest->get_name(), $info->{state}, $info->{nrVirtCpu}, $info->{maxMem};
print "networks: ", join(" ", map { $_->get_name() } $conn->list_all_networks()), "\n";
print "pools: ", join(" ", map { $_->get_name() } $conn->list_all_storage_pools()), "\n";
eval { $conn->get_domain_by_name("nobody") };
print "nobody: ", ref($@), " ", $@->code == Sys::Virt::Error::ERR_NO_DOMAIN ? "is not there" : $@->message, "\n";
$guest->destroy();
$guest->undefine();
print "left: ", scalar(@{[$conn->list_all_domains()]}), "\n";
"#;

#[test]
fn a_guests_life_by_the_bindings_for_perl() {
    if !super::is_there("a_guests_life_by_the_bindings_for_perl") {
        return;
    }
    let host = Host::start();
    let guest = host.xml("guest.xml", &linux("pearl", ""));
    let mut command = Command::new("perl");
    let said = printed(
        with_libraries(&mut command)
            .arg("-I")
            .arg(unpacked().join("usr/lib/x86_64-linux-gnu/perl5/5.36"))
            .args(["-e", PERL, &uri(&host), &guest]),
    );
    assert_eq!(
        said,
        "pearl: state 1, 2 CPUs, 262144 KiB\nnetworks: default\npools: default\n\
         nobody: Sys::Virt::Error is not there\nleft: 0\n"
    );
}


echo BEGIN install
dpkg --install /srv/ostler.deb >/dev/null
states
systemctl is-active ostler-tls.socket || true
stat -c '%a %U:%G' /run/libvirt/libvirt-sock /run/libvirt/virtqemud-sock-ro
echo END install

echo BEGIN objects
virsh net-list
virsh pool-list
echo END objects

echo BEGIN users
useradd --groups libvirt keeper
runuser -u keeper -- virsh --connect qemu:///system list --name
if runuser -u nobody -- virsh --connect qemu:///system list; then exit 1; fi 2>/dev/null
runuser -u nobody -- virsh --connect qemu:///system --readonly uri
echo END users

# Nobody runs; who comes in at the socket starts it.
echo BEGIN activation
systemctl stop ostler.service 2>/dev/null
states
runuser -u keeper -- virsh --connect qemu:///system net-list --name
states
echo END activation

echo BEGIN guest
# A disk whose boot sector rests, as firmware does not where nothing boots.
printf '\364\353\375' >/srv/inn.img
truncate --size 510 /srv/inn.img
printf '\125\252' >>/srv/inn.img
truncate --size 1M /srv/inn.img
cat >/srv/inn.xml <<'END'
<domain type="qemu">
  <name>inn</name>
  <memory>65536</memory>
  <os><type>hvm</type></os>
  <devices><disk><source file="/srv/inn.img"/><target dev="vda"/></disk></devices>
</domain>
END
virsh define /srv/inn.xml
virsh start inn
before=$(guest)
[ -n "$before" ]
daemon=$(main)
systemctl restart ostler.service
is_new_and_active "$daemon"
is_running
echo "a restart: $(guest | sed "s/^$before\$/the same guest/")"

# One that is killed comes again by itself.
daemon=$(main)
kill -KILL "$daemon"
until_so is_new_and_active "$daemon"
until_so is_running
echo "a kill: $(guest | sed "s/^$before\$/the same guest/")"

# The package once more, as an upgrade.
daemon=$(main)
dpkg --install /srv/ostler.deb >/dev/null
is_new_and_active "$daemon"
is_running
echo "an upgrade: $(guest | sed "s/^$before\$/the same guest/")"

daemon=$(main)
systemctl reload ostler.service
[ "$(main)" = "$daemon" ]
is_running
virsh autostart inn
echo END guest

echo BEGIN journal
until_so sh -c "journalctl --unit ostler.service --output cat | grep 'call=DOMAIN_DEFINE_XML.*inn.*done'"
journalctl --unit ostler.service --output cat | grep -o 'call=DOMAIN_DEFINE_XML.*'
echo END journal

echo BEGIN doctor
ostler doctor
echo END doctor

echo BEGIN failed
systemctl --failed --no-legend --plain --no-pager
echo END failed

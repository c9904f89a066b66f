
# What starts with the host has started.
echo BEGIN again
states
until_so is_running
virsh net-list --name
virsh pool-list --name
echo END again

# The package goes, the guest stays.
echo BEGIN removed
before=$(guest)
dpkg --remove ostler >/dev/null 2>&1
[ "$(guest)" = "$before" ]
if systemctl cat ostler.service 2>/dev/null; then exit 1; fi
if [ -e /run/libvirt/libvirt-sock ]; then exit 1; fi
ls /var/lib/ostler/guests/*.xml
dpkg --purge ostler >/dev/null 2>&1
systemctl --failed --no-legend --plain --no-pager
echo END removed

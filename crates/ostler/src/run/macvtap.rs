//! A card that is a macvtap on an interface of the host: made for the guest, and gone with it.

use ostler_hostnet::{Kernel, Mac, MacvtapSpec};
use ostler_netio::OpenTap;
use ostler_vmm::spec::MacAddress;

use super::options::DirectOption;
use crate::failure::{Failure, say};

/// A macvtap that was made; dropping it deletes it.
pub struct Macvtap(String);

impl Drop for Macvtap {
    fn drop(&mut self) {
        let deleted = Kernel::open().and_then(|mut kernel| kernel.delete_tap(&self.0));
        if let Err(error) = deleted {
            say(format_args!("ostler: the macvtap {} stays: {error}", self.0));
        }
    }
}

/// Makes a macvtap for a card with this address, and opens it.
pub fn make(
    option: &DirectOption,
    mac: MacAddress,
    pairs: usize,
    vhost: bool,
) -> Result<(Macvtap, OpenTap), Failure> {
    let make = |name: &str| {
        let spec = MacvtapSpec {
            name: name.into(),
            over: option.over.clone(),
            mode: option.mode,
            mac: Mac(mac.0),
        };
        Kernel::open()?.create_macvtap(&spec)
    };
    let (name, index) = ostler_hostnet::make_numbered("macvtap", make).map_err(Failure::bad_input)?;
    let made = Macvtap(name);
    let opened = ostler_netio::open_macvtap((&made.0, index), mac.0, pairs, vhost);
    Ok((made, opened.map_err(Failure::bad_input)?))
}

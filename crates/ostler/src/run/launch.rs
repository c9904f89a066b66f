//! Starting a guest's process and waiting until the guest runs.

use ostler_launch::Started;

use super::open::Opened;
use crate::failure::Failure;

/// Starts the process of the guest that `opened` describes. The descriptors are handed over, and closed here.
pub fn launch(opened: &mut Opened) -> Result<Started, Failure> {
    let descriptors = std::mem::take(&mut opened.descriptors);
    Ok(ostler_launch::start(&opened.spec, descriptors, None)?)
}

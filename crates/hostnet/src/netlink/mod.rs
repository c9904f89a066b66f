//! A blocking client of the kernel's rtnetlink (RFC 3549; `rtnetlink(7)`).

pub(crate) mod codec;
pub(crate) mod constants;
mod socket;
mod transaction;

pub(crate) use codec::{Attributes, Request, attribute, text, u16_of, u32_of};
pub(crate) use socket::{Netlink, Told};
pub(crate) use transaction::{Transaction, Undo};

//! Port Timers state machine (802.1D-2004, 17.22).

use super::port::Port;

/// ONE_SECOND to TICK and back: counts the timers down.
pub(super) fn step(port: &mut Port) -> bool {
    if !port.tick {
        return false;
    }
    port.tick = false;
    let t = &mut port.timers;
    for timer in [
        &mut t.edge_delay_while,
        &mut t.fd_while,
        &mut t.hello_when,
        &mut t.mdelay_while,
        &mut t.rb_while,
        &mut t.rcvd_info_while,
        &mut t.rr_while,
        &mut t.tc_while,
    ] {
        *timer = timer.saturating_sub(1);
    }
    port.tx_count = port.tx_count.saturating_sub(1);
    true
}

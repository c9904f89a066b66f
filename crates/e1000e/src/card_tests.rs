use super::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

fn write(card: &mut Card, at: u32, value: u32) -> Effects {
    card.write(
        at,
        Masked {
            value,
            mask: u32::MAX,
        },
    )
}

/// A card whose driver has set up its receive queue.
fn open() -> Card {
    let mut card = Card::new(MAC, true);
    card.set_master(true);
    write(&mut card, regs::RECEIVE + regs::BASE_LOW, 0x1008);
    write(&mut card, regs::RECEIVE + regs::LENGTH, 256 * 16);
    write(&mut card, regs::RECEIVE + regs::TAIL, 255);
    write(&mut card, regs::RCTL, RCTL_ENABLE | 1 << 15);
    card
}

fn deliver(card: &Card, len: usize) -> Option<Reception> {
    match card.judge(&vec![0xff; len]) {
        Verdict::Deliver(reception) => Some(reception),
        _ => None,
    }
}

#[test]
fn a_reset_brings_back_address_and_link() {
    let mut card = Card::new(MAC, true);
    assert_eq!(card.mac(), MAC);
    assert_eq!(
        card.read(regs::STATUS),
        STATUS_VALUE | STATUS_LINK | STATUS_MASTER
    );
    write(&mut card, regs::RA, 0);
    write(&mut card, regs::VET, 0x88a8);
    assert!(write(&mut card, regs::CTRL, CTRL_RESET).stops);
    assert_eq!(card.mac(), MAC);
    assert_eq!(
        (card.read(regs::VET), card.read(regs::CTRL) & CTRL_RESET),
        (0x8100, 0)
    );
    assert_eq!(card.read(regs::CTRL_COPY), card.read(regs::CTRL));
    assert_eq!(card.read(regs::EEC) & EEC_READ_DONE, EEC_READ_DONE);
}

#[test]
fn the_eeprom_and_the_phy_are_reached_by_registers() {
    let mut card = Card::new(MAC, true);
    let sum = (0..64).fold(0u16, |sum, at| {
        write(&mut card, regs::EERD, at << 2 | 1);
        let read = card.read(regs::EERD);
        assert_eq!(read & 2, 2);
        sum.wrapping_add((read >> 16) as u16)
    });
    assert_eq!(sum, 0xbaba);
    write(&mut card, regs::MDIC, 2 << 26 | 1 << 21 | 2 << 16);
    assert_eq!(card.read(regs::MDIC) & 0x5000_ffff, 0x1000_0141);
    write(&mut card, regs::EEC, EEC_REQUEST);
    assert_ne!(card.read(regs::EEC) & EEC_GRANT, 0);
    write(&mut card, regs::EEC, 0);
    assert_eq!(card.read(regs::EEC) & EEC_GRANT, 0);
    assert_eq!((card.read(regs::SWSM) & 1, card.read(regs::SWSM) & 1), (0, 1));
}

#[test]
fn the_link_follows_the_cable_and_the_phy() {
    let mut card = Card::new(MAC, false);
    assert_eq!(card.read(regs::STATUS) & STATUS_LINK, 0);
    card.set_cable(true);
    assert_eq!(card.read(regs::ICR), LSC);
    assert_ne!(card.read(regs::STATUS) & STATUS_LINK, 0);
    write(&mut card, regs::MDIC, 1 << 26 | 1 << 21 | 1 << 11);
    assert_eq!(card.read(regs::STATUS) & STATUS_LINK, 0);
    assert_eq!(card.read(regs::ICR), LSC);
    card.set_cable(false);
    assert_eq!(
        card.read(regs::ICR),
        0,
        "nobody sees the cable of a PHY that is off"
    );
}

#[test]
fn statistics_clear_when_they_are_read() {
    let mut card = Card::new(MAC, true);
    card.count_received(Audience::Broadcast, 60);
    card.count_received(Audience::Unicast, 1514);
    card.count_sent(Audience::Multicast, 100);
    for (at, value) in [
        (regs::GPRC, 2),
        (regs::BPRC, 1),
        (regs::PRC64, 1),
        (regs::PRC64 + 20, 1),
        (regs::PTC64 + 4, 1),
        (regs::MPTC, 1),
    ] {
        assert_eq!((card.read(at), card.read(at)), (value, 0), "{at:#x}");
    }
    assert_eq!((card.read(regs::GORCL), card.read(regs::GORCL)), (1582, 1582));
    card.read(regs::GORCL + 4);
    assert_eq!(card.read(regs::GORCL), 0, "the high half clears both");
    write(&mut card, regs::TPR, 7);
    assert_eq!(card.read(regs::TPR), 2, "written by nobody");
}

#[test]
fn frames_are_taken_as_the_control_registers_say() {
    let mut card = open();
    let plain = deliver(&card, 60).unwrap();
    assert_eq!(
        (plain.format, plain.sizes, plain.ring.base),
        (Format::Legacy, [2048, 0, 0, 0], 0x1000)
    );
    assert_eq!(
        (plain.strip_tag, plain.strip_crc, plain.threshold),
        (None, false, 128)
    );
    assert_eq!(card.judge(&[0; 60]), Verdict::Filtered);
    assert_eq!(card.judge(&[0xff; 1519]), Verdict::TooLong);
    let sizes = |card: &mut Card, control: u32| {
        write(card, regs::RCTL, RCTL_ENABLE | 1 << 15 | control);
        deliver(card, 60).unwrap().sizes[0]
    };
    assert_eq!(sizes(&mut card, 3 << 16), 256);
    assert_eq!(sizes(&mut card, 1 << 16 | RCTL_EXTENDED_SIZE), 16384);
    assert_eq!(sizes(&mut card, 3 << 16 | RCTL_EXTENDED_SIZE), 4096);
    assert_eq!(sizes(&mut card, 3 << 27 | 2 << 16), 3072);
    write(&mut card, regs::RFCTL, RFCTL_EXTENDED);
    write(&mut card, regs::CTRL, CTRL_VLAN);
    write(
        &mut card,
        regs::RCTL,
        RCTL_ENABLE | 1 << 15 | RCTL_SPLIT | RCTL_LONG | RCTL_STRIP_CRC,
    );
    let split = deliver(&card, 9000).unwrap();
    assert_eq!((split.format, split.sizes), (Format::Split, [256, 4096, 4096, 0]));
    assert_eq!((split.strip_tag, split.strip_crc), (Some(0x8100), true));
    assert_eq!(card.judge(&vec![0xff; 16381]), Verdict::TooLong);
}

#[test]
fn nothing_moves_without_leave() {
    let mut card = open();
    assert!(card.can_receive());
    card.set_cable(false);
    assert!(!card.can_receive());
    card.set_cable(true);
    card.set_master(false);
    assert_eq!(card.judge(&[0xff; 60]), Verdict::Closed);
    card.set_master(true);
    write(&mut card, regs::CTRL, CTRL_MASTER_DISABLE);
    assert!(!card.can_receive());
    assert_eq!(card.read(regs::STATUS) & STATUS_MASTER, 0);
    write(&mut card, regs::CTRL, 0);
    write(&mut card, regs::RCTL, 0);
    assert!(!card.can_receive());
    for queue in 0..TRANSMIT_QUEUES as u32 {
        let at = regs::TRANSMIT + queue * regs::QUEUE_STRIDE;
        write(&mut card, at + regs::LENGTH, 128);
        write(&mut card, at + regs::TAIL, 4);
        assert_eq!(card.transmission(queue as usize), None);
    }
    write(&mut card, regs::TCTL, TCTL_ENABLE | TCTL_PAD);
    let sends = card.transmission(0).unwrap();
    assert_eq!((sends.ring.available(), sends.pad), (4, true));
    assert!(card.transmission(1).is_some());
    write(&mut card, regs::TRANSMIT + regs::QUEUE_STRIDE + regs::TARC, 3);
    assert_eq!(card.transmission(1), None);
    assert!(card.transmitted(sends.epoch, 0, 4));
    assert_eq!(card.transmission(0), None);
    write(&mut card, regs::TRANSMIT + regs::HEAD, 0);
    assert!(!card.transmitted(sends.epoch, 0, 3), "set up anew meanwhile");
}

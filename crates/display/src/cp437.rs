//! The characters of a PC's own font: code page 437, with what it shows for control characters.

const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";
const HIGH: &str = "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

/// The character of each code.
pub(crate) fn characters() -> [char; 256] {
    let mut all = [' '; 256];
    for (code, character) in LOW.chars().enumerate() {
        all[code] = character;
    }
    for (code, place) in all.iter_mut().enumerate().take(0x7f).skip(0x20) {
        *place = code as u8 as char;
    }
    for (place, character) in all[0x7f..].iter_mut().zip(HIGH.chars()) {
        *place = character;
    }
    all
}

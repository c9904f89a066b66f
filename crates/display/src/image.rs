//! Pictures of a screen as files.

use std::io::{BufWriter, Write};

use crate::{Error, Screen};

/// How a picture is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Portable pixmap: `P6`, width, height, 255, then the colours.
    #[default]
    Ppm,
    /// Portable network graphics.
    Png,
}

impl Format {
    /// The format of this name: `ppm` or `png`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "ppm" => Some(Self::Ppm),
            "png" => Some(Self::Png),
            _ => None,
        }
    }
}

/// Writes the picture of a screen, row by row.
pub fn write_picture(screen: &Screen, format: Format, to: impl Write) -> Result<(), Error> {
    let mut to = BufWriter::new(to);
    match format {
        Format::Ppm => write_ppm(screen, &mut to)?,
        Format::Png => write_png(screen, &mut to)?,
    }
    Ok(to.flush()?)
}

fn write_ppm(screen: &Screen, to: &mut impl Write) -> std::io::Result<()> {
    write!(to, "P6\n{} {}\n255\n", screen.width(), screen.height())?;
    let mut row = Vec::new();
    for y in 0..screen.height() {
        screen.row(y, &mut row);
        to.write_all(&row)?;
    }
    Ok(())
}

fn write_png(screen: &Screen, to: &mut impl Write) -> std::io::Result<()> {
    let mut encoder = png::Encoder::new(to, screen.width(), screen.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    let mut row = Vec::new();
    for y in 0..screen.height() {
        screen.row(y, &mut row);
        stream.write_all(&row)?;
    }
    Ok(stream.finish()?)
}

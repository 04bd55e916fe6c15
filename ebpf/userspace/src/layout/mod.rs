//! Layouts of maps as data, so that an agent reads the maps of another version of Sluice.
//!
//! ```text
//! describe   the layouts of this version, from the structs of `sluice-abi`
//! convert    entries of one layout to another one, field by field, by name
//! ```
//! A [`Layouts`] is pinned beside the maps that it describes, as text:
//! ```text
//! sluice-layouts 1
//! map FLOWS 1
//! key src 0 16 1 bytes
//! value seen 80 4 1 integer
//! ```
//! `map` is followed by the name and the revision of the meaning, `key` and `value` by path, offset,
//! size of an element, number of elements and kind of a field. Type and capacity of a map are those
//! that the kernel reports.

mod convert;
mod describe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub use convert::{Conversion, ConversionError};
pub use describe::current;

/// First line of the text: the version of this format.
const HEADER: &str = "sluice-layouts 1";

/// How the bytes of a field are copied to one of another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// An integer in host order: converted if its value fits.
    Integer,
    /// Bytes whose number has a meaning, such as an address.
    Bytes,
}

/// A field that has no fields of its own, or an array of such fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Names of the structs' fields that lead to it, separated by dots.
    pub path: String,
    /// Bytes from the start of the key or value.
    pub offset: usize,
    /// Bytes of an element.
    pub size: usize,
    /// Number of elements; 1 unless the field is an array.
    pub count: usize,
    /// How it is converted.
    pub kind: FieldKind,
}

/// The layout of the entries of one map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapLayout {
    /// Raised when fields keep their names and change their meaning: such entries are not converted.
    pub revision: u32,
    /// Fields of a key.
    pub key: Vec<Field>,
    /// Fields of a value.
    pub value: Vec<Field>,
}

/// The layouts of maps by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layouts(pub BTreeMap<String, MapLayout>);

/// A text that does not describe layouts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The first line is that of no known format.
    #[error(
        "the description of the pinned maps begins with {0:?}, expected {HEADER:?}: upgrade by a \
         version in between, or remove the pins and restart the pods of this node"
    )]
    Header(String),
    /// A line is not valid.
    #[error(
        "line {line} of the description of the pinned maps is not valid: {text:?}: remove the pins \
         and restart the pods of this node"
    )]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
}

impl Layouts {
    /// Parses the text that [`Layouts`] is displayed as. Zero bytes at the end are ignored.
    ///
    /// # Errors
    /// The text is not such a text; the error names the line and the remedy.
    pub fn parse(text: &[u8]) -> Result<Layouts, LayoutError> {
        let text = String::from_utf8_lossy(text);
        let mut lines = text.trim_end_matches('\0').lines();
        let header = lines.next().unwrap_or_default();
        if header != HEADER {
            return Err(LayoutError::Header(header.chars().take(40).collect()));
        }
        let mut layouts = Layouts::default();
        let mut name = String::new();
        for (number, line) in lines.enumerate() {
            let invalid =
                || LayoutError::Line { line: number + 2, text: line.chars().take(80).collect() };
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["map", map, revision] => {
                    name = (*map).to_owned();
                    let revision = revision.parse().map_err(|_| invalid())?;
                    let layout = MapLayout { revision, ..MapLayout::default() };
                    if layouts.0.insert(name.clone(), layout).is_some() {
                        return Err(invalid());
                    }
                }
                [part @ ("key" | "value"), field @ ..] => {
                    let layout = layouts.0.get_mut(&name).ok_or_else(invalid)?;
                    let fields = if *part == "key" { &mut layout.key } else { &mut layout.value };
                    fields.push(Field::parse(field).ok_or_else(invalid)?);
                }
                _ => return Err(invalid()),
            }
        }
        Ok(layouts)
    }
}

impl Field {
    /// Bytes of all elements.
    pub(crate) fn len(&self) -> usize {
        self.size * self.count
    }

    fn parse(words: &[&str]) -> Option<Field> {
        let [path, offset, size, count, kind] = words else { return None };
        // No entry of a map is larger than 64 KiB.
        let number = |text: &str| text.parse::<u16>().ok().map(usize::from);
        let kind = match *kind {
            "integer" => FieldKind::Integer,
            "bytes" => FieldKind::Bytes,
            _ => return None,
        };
        let field = Field {
            path: (*path).to_owned(),
            offset: number(offset)?,
            size: number(size)?,
            count: number(count)?,
            kind,
        };
        let is_valid = !field.path.is_empty()
            && field.len() > 0
            && (kind == FieldKind::Bytes || matches!(field.size, 1 | 2 | 4 | 8));
        is_valid.then_some(field)
    }
}

impl fmt::Display for Layouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        for (name, layout) in &self.0 {
            writeln!(f, "map {name} {}", layout.revision)?;
            let keys = layout.key.iter().map(|field| ("key", field));
            for (part, field) in keys.chain(layout.value.iter().map(|field| ("value", field))) {
                let Field { path, offset, size, count, kind } = field;
                let kind = match kind {
                    FieldKind::Integer => "integer",
                    FieldKind::Bytes => "bytes",
                };
                writeln!(f, "{part} {path} {offset} {size} {count} {kind}")?;
            }
        }
        Ok(())
    }
}

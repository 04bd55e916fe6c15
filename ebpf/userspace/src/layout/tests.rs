#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use sluice_abi::{FlowEntry, FlowKey, PodRef, PortBe};
use zerocopy::IntoBytes;

use super::*;

#[test]
fn every_pinned_map_with_entries_of_structs_is_described() {
    let current = current();
    for name in sluice_abi::map::ALL {
        let undescribed = matches!(name, "EVENTS" | "SUCCESSORS" | "PREDECESSORS");
        assert_eq!(current.0.contains_key(name), !undescribed, "{name}");
    }
}

#[test]
fn text_is_parsed_to_what_it_was_written_from() {
    let current = current();
    let mut text = current.to_string().into_bytes();
    assert!(text.len() < 16 << 10, "{}", text.len());
    assert_eq!(Layouts::parse(&text).unwrap(), current);
    text.extend([0; 100]);
    assert_eq!(Layouts::parse(&text).unwrap(), current);
}

#[test]
fn corrupted_description_is_an_error_that_names_line_and_remedy() {
    for (text, expected) in [
        ("", "begins with \"\""),
        ("sluice-layouts 2\n", "upgrade by a version in between"),
        ("sluice-layouts 1\nmap FLOWS\n", "line 2"),
        ("sluice-layouts 1\nkey a 0 1 1 bytes\n", "line 2"),
        ("sluice-layouts 1\nmap A 1\nkey a 0 1 1 bits\n", "line 3"),
        ("sluice-layouts 1\nmap A 1\nkey a 0 3 1 integer\n", "line 3"),
        ("sluice-layouts 1\nmap A 1\nkey a 0 0 1 bytes\n", "line 3"),
        ("sluice-layouts 1\nmap A 1\nkey a 70000 1 1 bytes\n", "line 3"),
        ("sluice-layouts 1\nmap A 1\nmap A 1\n", "line 3"),
        ("sluice-layouts 1\n\u{fffd}\n", "remove the pins"),
    ] {
        let error = Layouts::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "sluice-layouts 1\n(map [AB] [0-9]{0,2}\n|key [ab.]{0,3} [0-9]{1,6} [0-9] [0-9] (bytes|integer)\n|\\PC{0,8}\n){0,6}") {
        if let Ok(layouts) = Layouts::parse(text.as_bytes()) {
            prop_assert_eq!(Layouts::parse(layouts.to_string().as_bytes()).unwrap(), layouts);
        }
    }
}

fn field(path: &str, offset: usize, size: usize, count: usize, kind: FieldKind) -> Field {
    Field { path: path.to_owned(), offset, size, count, kind }
}

fn values(fields: Vec<Field>) -> MapLayout {
    let key = vec![field("k", 0, 4, 1, FieldKind::Bytes)];
    MapLayout { revision: 1, key, value: fields }
}

#[test]
fn a_flow_survives_another_order_of_its_fields() {
    let layouts = current();
    let flows = &layouts.0["FLOWS"];
    let (k, v) = (size_of::<FlowKey>(), size_of::<FlowEntry>());
    let mut other = flows.clone();
    // The fields in reverse order, after a new one.
    let mut offset = 8;
    for field in other.value.iter_mut().rev() {
        field.offset = offset;
        offset += field.len();
    }
    other.value.push(field("new", 0, 8, 1, FieldKind::Integer));
    let tuple = FlowKey { sport: PortBe::new(4242), proto: 6, ..FlowKey::default() };
    let entry = FlowEntry {
        tuple,
        seen: 7,
        client: PodRef { index: 3, generation: 9 },
        tcp: [2, 3],
        ..FlowEntry::default()
    };
    let there = Conversion::new((flows, (k, v)), (&other, (k, offset))).unwrap();
    let back = Conversion::new((&other, (k, offset)), (flows, (k, v))).unwrap();
    let (keys, values, left_out) = there.convert(tuple.as_bytes(), entry.as_bytes());
    assert_eq!((values.len(), left_out), (offset, 0));
    assert_eq!(values[..8], [0; 8]);
    assert_eq!(back.convert(&keys, &values), (keys, entry.as_bytes().to_vec(), 0));
}

#[test]
fn integers_keep_their_value_and_entries_that_do_not_fit_are_left_out() {
    let wide = values(vec![field("n", 0, 4, 2, FieldKind::Integer)]);
    let narrow = values(vec![field("n", 2, 2, 2, FieldKind::Integer)]);
    let narrowing = Conversion::new((&wide, (4, 8)), (&narrow, (4, 6))).unwrap();
    let of = |a: u32, b: u32| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
    let two = [of(1, 65_535), of(1, 65_536)].concat();
    let (_, converted, left_out) = narrowing.convert(&[0; 8], &two);
    let expected = [vec![0, 0], 1u16.to_ne_bytes().to_vec(), 65_535u16.to_ne_bytes().to_vec()];
    assert_eq!((converted, left_out), (expected.concat(), 1));
    let widening = Conversion::new((&narrow, (4, 6)), (&wide, (4, 8))).unwrap();
    assert_eq!(widening.convert(&[0; 4], &expected.concat()).1, of(1, 65_535));
}

#[test]
fn other_meanings_types_and_sizes_are_refused() {
    let layout = |size, kind| values(vec![field("a", 0, size, 1, kind)]);
    let bytes = layout(4, FieldKind::Bytes);
    let new = |from: &MapLayout, to: &MapLayout, to_size| {
        Conversion::new((from, (4, 4)), (to, (4, to_size))).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(new(&bytes, &bytes, 4), Ok(()));
    for (to, size, expected) in [
        (MapLayout { revision: 2, ..bytes.clone() }, 4, "revision 1"),
        (layout(4, FieldKind::Integer), 4, "field a has another type"),
        (layout(8, FieldKind::Bytes), 8, "field a has another type"),
        (layout(4, FieldKind::Bytes), 3, "field a ends beyond its entry of 3 bytes"),
    ] {
        let error = new(&bytes, &to, size).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// A layout with some of the fields a to e, in any order, with gaps.
fn any_layout() -> impl Strategy<Value = Vec<Field>> {
    let one = (any::<bool>(), 1usize..4, 0usize..3, prop::sample::select(vec![1usize, 2, 4, 8]));
    (prop::collection::vec(one, 5), Just(["a", "b", "c", "d", "e"]).prop_shuffle()).prop_map(
        |(choices, names)| {
            let mut offset = 0;
            let mut fields = Vec::new();
            for ((present, count, gap, size), name) in choices.into_iter().zip(names) {
                if !present {
                    continue;
                }
                // Bytes have one size per name, as the conversion requires.
                let (size, kind) = match name {
                    "a" | "b" => (6, FieldKind::Bytes),
                    _ => (size, FieldKind::Integer),
                };
                offset += gap;
                fields.push(field(name, offset, size, count, kind));
                offset += size * count;
            }
            fields
        },
    )
}

type Model = BTreeMap<(String, usize), Vec<u8>>;

/// The value of each element, by path and number: integers as eight bytes.
fn model(fields: &[Field], value: &[u8]) -> Model {
    let mut model = Model::new();
    for field in fields {
        for n in 0..field.count {
            let mut bytes = value[field.offset + n * field.size..][..field.size].to_vec();
            if field.kind == FieldKind::Integer {
                if cfg!(target_endian = "big") {
                    bytes.reverse();
                }
                bytes.resize(8, 0);
            }
            model.insert((field.path.clone(), n), bytes);
        }
    }
    model
}

proptest! {
    #[test]
    fn conversion_equals_the_model(
        from in any_layout(),
        to in any_layout(),
        bytes in prop::collection::vec(prop::sample::select(vec![0u8, 0, 0, 1, 255]), 128),
    ) {
        let size = |fields: &[Field]| fields.iter().map(|f| f.offset + f.len()).max().unwrap_or(1);
        let (from_size, to_size) = (size(&from), size(&to) + 3);
        let source = &bytes[..from_size];
        let conversion =
            Conversion::new((&values(from.clone()), (4, from_size)), (&values(to.clone()), (4, to_size)))
                .unwrap();
        let (keys, converted, left_out) = conversion.convert(&[1, 2, 3, 4], source);
        let old = model(&from, source);
        let fits = to.iter().all(|field| (0..field.count).all(|n| {
            let value = old.get(&(field.path.clone(), n));
            field.kind == FieldKind::Bytes
                || value.is_none_or(|value| value[field.size..].iter().all(|byte| *byte == 0))
        }));
        prop_assert_eq!(left_out, usize::from(!fits));
        if fits {
            prop_assert_eq!(keys, [1, 2, 3, 4]);
            let new = model(&to, &converted);
            for (element, value) in &new {
                let zero = vec![0; value.len()];
                prop_assert_eq!(value, old.get(element).unwrap_or(&zero), "{:?}", element);
            }
            let used: usize = to.iter().map(Field::len).sum();
            let nonzero = |bytes: &[u8]| bytes.iter().filter(|byte| **byte != 0).count();
            prop_assert!(nonzero(&converted) <= used);
        } else {
            prop_assert!(converted.is_empty());
        }
    }
}

use super::*;
use crate::types::{Domain, TypedParameter, TypedValue};
use proptest::prelude::*;

#[test]
fn values_look_as_the_standard_says() {
    assert_eq!(to_bytes(&0x0102_0304u32).unwrap(), [1, 2, 3, 4]);
    assert_eq!(to_bytes(&-1i32).unwrap(), [0xff; 4]);
    assert_eq!(to_bytes(&1u64).unwrap(), [0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(to_bytes(&1.0f64).unwrap(), [0x3f, 0xf0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        to_bytes(&String::from("hello")).unwrap(),
        *b"\0\0\0\x05hello\0\0\0"
    );
    assert_eq!(to_bytes(&None::<u32>).unwrap(), [0; 4]);
    assert_eq!(to_bytes(&Some(7u32)).unwrap(), [0, 0, 0, 1, 0, 0, 0, 7]);
    assert_eq!(
        to_bytes(&Chars::<3>("ab".into())).unwrap(),
        [0, 0, 0, 97, 0, 0, 0, 98, 0, 0, 0, 0]
    );
    assert_eq!(
        to_bytes(&Chars::<2>("long".into())).unwrap(),
        [0, 0, 0, 108, 0, 0, 0, 0]
    );
}

#[test]
fn what_is_too_long_is_refused_before_it_is_allocated() {
    let limit = MAX_STRING;
    assert_eq!(
        from_bytes::<String>(&u32::MAX.to_be_bytes()),
        Err(XdrError::TooLong {
            length: u32::MAX as usize,
            limit
        })
    );
    // A list that its limit allows, but the input cannot hold.
    let mut bytes = 1_000_000u32.to_be_bytes().to_vec();
    bytes.extend([0; 64]);
    assert_eq!(from_bytes::<List<u32, 2_000_000>>(&bytes), Err(XdrError::Short));
    assert!(to_bytes(&List::<u32, 1>(vec![1, 2])).is_err());
    assert_eq!(from_bytes::<u32>(&[0; 8]), Err(XdrError::Trailing(4)));
    assert_eq!(from_bytes::<String>(b"\0\0\0\x01\0\0\0\0"), Err(XdrError::Text));
    assert_eq!(from_bytes::<String>(b"\0\0\0\x01\xff\0\0\0"), Err(XdrError::Text));
    assert!(to_bytes(&String::from("a\0b")).is_err());
    assert!(from_bytes::<Option<u32>>(&[0, 0, 0, 2, 0, 0, 0, 0]).is_err());
}

fn parameter() -> impl Strategy<Value = TypedParameter> {
    let value = prop_oneof![
        any::<i32>().prop_map(TypedValue::Int),
        any::<u32>().prop_map(TypedValue::Uint),
        any::<i64>().prop_map(TypedValue::Long),
        any::<u64>().prop_map(TypedValue::Ulong),
        (-1e9..1e9f64).prop_map(TypedValue::Double),
        any::<bool>().prop_map(TypedValue::Bool),
        "[^\0]{0,40}".prop_map(TypedValue::Text),
    ];
    ("[a-z.]{0,80}", value).prop_map(|(field, value)| TypedParameter { field, value })
}

proptest! {
    #[test]
    fn whatever_is_written_reads_back(list in proptest::collection::vec(parameter(), 0..20), name in "[^\0]{0,30}",
                                      uuid in any::<[u8; 16]>(), id in any::<i32>(), bytes in any::<Vec<u8>>()) {
        let list = List::<_, 64>(list);
        prop_assert_eq!(&from_bytes::<List<TypedParameter, 64>>(&to_bytes(&list).unwrap()).unwrap(), &list);
        let domain = Some(Domain { name, uuid, id });
        prop_assert_eq!(&from_bytes::<Option<Domain>>(&to_bytes(&domain).unwrap()).unwrap(), &domain);
        let opaque = Opaque::<1024>(bytes);
        prop_assert_eq!(&from_bytes::<Opaque<1024>>(&to_bytes(&opaque).unwrap()).unwrap(), &opaque);
    }

    #[test]
    fn any_bytes_are_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        // What is taken is what is there: written again it has the length that was read.
        if let Ok(list) = from_bytes::<List<TypedParameter, 16>>(&bytes) {
            prop_assert_eq!(to_bytes(&list).unwrap().len(), bytes.len());
        }
        if let Ok(domain) = from_bytes::<Option<Domain>>(&bytes) {
            prop_assert_eq!(to_bytes(&domain).unwrap().len(), bytes.len());
        }
        let _ = from_bytes::<Opaque<64>>(&bytes);
        let _ = from_bytes::<Chars<32>>(&bytes);
    }
}

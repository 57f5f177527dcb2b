//! SenML against the examples and the rules of RFC 8428.

use super::*;

fn senml(device: DeviceNaming, codec: Codec) -> Bench {
    let names = ["voltage", "current", "temp", "temperature", "humidity", ""];
    let metrics = vec![
        metric("current", "mA", 0),
        metric("humidity", "%", 1),
        metric("self", "Cel", 1),
        metric("temperature", "Cel", 1),
        metric("temp", "Cel", 1),
        metric("voltage", "V", 1),
    ];
    let fields = names.iter().map(|name| field(name, if name.is_empty() { "self" } else { name }, None)).collect();
    Bench::new(model(metrics, vec![source("#", codec, device, fields)]))
}

#[test]
fn senml_examples_of_the_rfc_resolve_as_it_says() {
    let Some(examples) = recordings("senml_rfc8428_examples.jsonl") else { return };
    let bn = || DeviceNaming::PayloadPath("bn".to_owned());
    let find = |name: &str| examples.iter().find(|example| example["example"] == name).unwrap();
    let json = |name: &str| senml(bn(), Codec::SenmlJson).decode("t", find(name)["payload"].to_string().as_bytes());
    assert_eq!(json("ex1"), ["urn:dev:ow:10e2073a01080063 self@r+0=231"]);
    assert_eq!(
        json("ex2"),
        ["urn:dev:ow:10e2073a01080063 voltage@r+0=1201", "urn:dev:ow:10e2073a01080063 current@r+0=1200"]
    );
    let third = json("ex3");
    assert_eq!(third.len(), 7);
    assert_eq!(third[0], "urn:dev:ow:10e2073a0108006 voltage@1276020076001=1201");
    assert_eq!(third[1], "urn:dev:ow:10e2073a0108006 current@1276020071001=1200");
    let bytes = hex::decode(find("ex3")["cbor_hex"].as_str().unwrap()).unwrap();
    let cbor = senml(bn(), Codec::SenmlCbor).decode("t", &bytes);
    assert_eq!(cbor.len(), 7);
    assert_eq!(cbor[6], third[6]);
    assert_eq!(
        json("ex6"),
        [
            "2001:db8::2 temperature@1320078429000=252",
            "2001:db8::2 humidity@1320078429000=300",
            "2001:db8::1 temperature@1320078429000=123",
            "2001:db8::1 humidity@1320078429000=670",
        ]
    );
    assert_eq!(json("ex7"), ["urn:dev:ow:10e2073a01080063 temp@r+0=231"]);
    let tenth = json("ex10");
    assert_eq!(tenth[1], "urn:dev:ow:10e2073a01080063 self@1276020091000=236");
    // Every number that the RFC resolved is found at the time that it resolved.
    for example in &examples {
        let Some(resolved) = example["resolved"].as_array() else { continue };
        let mut names: Vec<_> = resolved
            .iter()
            .filter(|record| record["v"].is_number())
            .filter_map(|record| record["n"].as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        let expected = resolved.iter().filter(|record| record["v"].is_number()).count();
        let metrics: Vec<_> = (0..names.len()).map(|index| metric(&format!("m{index}"), "?", 3)).collect();
        let fields = names.iter().enumerate().map(|(index, name)| field(name, &format!("m{index}"), None)).collect();
        let mut bench = Bench::new(model(
            metrics,
            vec![source("#", Codec::SenmlJson, DeviceNaming::Constant("d".to_owned()), fields)],
        ));
        let mut payload = example["payload"].clone();
        for record in payload.as_array_mut().unwrap() {
            for unit in ["u", "bu"] {
                record.as_object_mut().unwrap().remove(unit);
            }
        }
        let lines = bench.decode("t", payload.to_string().as_bytes());
        let readings = lines.iter().filter(|line| line.starts_with("d m")).count();
        assert_eq!(readings, expected, "{}: {lines:?}", example["example"]);
    }
}

/// A power meter: `power` is its value, `power#s` what it summed up.
fn summing(codec: Codec) -> Bench {
    let metrics = vec![metric("energy", "Wh", 3), metric("power", "W", 1)];
    let fields = vec![field("power", "power", None), field("power#s", "energy", Some("J"))];
    Bench::new(model(metrics, vec![source("#", codec, DeviceNaming::PayloadPath("bn".to_owned()), fields)]))
}

#[test]
fn senml_sums_are_added_to_their_base_in_the_unit_times_seconds() {
    let mut bench = summing(Codec::SenmlJson);
    // 7200 W·s are 2 Wh.
    assert_eq!(
        bench.decode("t", br#"[{"bn":"d:","n":"power","u":"W","v":12.5,"s":7200}]"#),
        ["d power@r+0=125", "d energy@r+0=2000"]
    );
    // RFC 8428, 4.5.4: base sum and sum are added, a missing one of the two is zero, and 4.2: with a sum the value may be absent.
    assert_eq!(
        bench.decode(
            "t",
            br#"[{"bn":"d:","bu":"kW","bs":3.6,"n":"power","v":1,"s":-1.8},{"n":"power","v":2},{"n":"power","bs":7.2,"s":0}]"#
        ),
        [
            "d power@r+0=10000",
            "d energy@r+0=500",
            "d power@r+0=20000",
            "d energy@r+0=1000",
            "d energy@r+0=2000",
        ]
    );
    // Neither of the two: the measurement has no sum, which is no flaw; nor is a sum that nobody asked for.
    assert_eq!(bench.decode("t", br#"[{"bn":"d:","n":"power","v":1}]"#), ["d power@r+0=10"]);
    assert_eq!(
        senml(DeviceNaming::PayloadPath("bn".to_owned()), Codec::SenmlJson)
            .decode("t", br#"[{"bn":"d:","n":"voltage","v":1,"s":5},{"n":"voltage","s":5}]"#),
        ["d voltage@r+0=10"]
    );
    // Without a unit in the payload the field's own counts.
    assert_eq!(bench.decode("t", br#"[{"bn":"d:","n":"power","s":"3600"}]"#), ["d energy@r+0=1000"]);
}

#[test]
fn senml_sums_are_exact_where_floats_are_not() {
    let mut bench = summing(Codec::SenmlJson);
    // Added up as doubles they would be 9007199254740992 kW·s.
    assert_eq!(
        bench.decode("t", br#"[{"bn":"d:","bs":9007199254740992,"n":"power","u":"kW","s":0.9}]"#),
        ["d energy@r+0=2501999792983609139"]
    );
    assert_eq!(bench.decode("t", br#"[{"bn":"d:","bs":1e300,"n":"power","s":1}]"#), ["NotRepresentable power#s"]);
    assert_eq!(bench.decode("t", br#"[{"bn":"d:","n":"power","s":true}]"#), ["NotANumber power#s"]);
    assert_eq!(
        bench.decode("t", br#"[{"bn":"d:","n":"power","u":"Cel","v":1,"s":2}]"#),
        ["UnknownUnit power", "UnknownUnit power#s"]
    );
    assert_eq!(
        bench.decode("t", br#"[{"bn":"d:","n":"power","v":1},{"bs":"x"}]"#),
        ["d power@r+0=10", "MalformedPayload Message"]
    );
}

#[test]
fn senml_sums_in_cbor_have_labels_of_their_own() {
    // [{-2: "d:", -6: 3600, 0: "power", 1: "W", 2: 5, 5: 3600}, {0: "power", 5: 4([-1, 36000])}]
    let payload = "82a6216264 3a25190e1000 65706f776572 016157 0205 05190e10 a200 65706f776572 05c482 20198ca0";
    let bytes = hex::decode(payload.replace(' ', "")).unwrap();
    assert_eq!(
        summing(Codec::SenmlCbor).decode("t", &bytes),
        ["d power@r+0=50", "d energy@r+0=2000", "d energy@r+0=2000"]
    );
}

/// A record in CBOR: base name `d:`, name `power`, and these labels with their encoded values.
fn cbor_record(fields: &[(i8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0x81, 0xa0 + u8::try_from(fields.len()).unwrap() + 2];
    bytes.extend([0x21, 0x62, b'd', b':', 0x00, 0x65]);
    bytes.extend(b"power");
    for (label, value) in fields {
        bytes.push(if *label < 0 { 0x20 | (-1 - label).to_le_bytes()[0] } else { label.to_le_bytes()[0] });
        bytes.extend(*value);
    }
    bytes
}

fn double(value: f64) -> Vec<u8> {
    [&[0xfb][..], &value.to_be_bytes()].concat()
}

#[test]
fn senml_floats_are_added_to_their_base_exactly() {
    let (base_time, base_value, value, time) = (-3, -5, 2, 6);
    let mut bench = summing(Codec::SenmlCbor);
    let mut decode = |fields: &[(i8, &[u8])]| bench.decode("t", &cbor_record(fields));
    let seconds = [0x1a, 0x4c, 0x0e, 0x85, 0x6c];
    assert_eq!(u32::from_be_bytes([seconds[1], seconds[2], seconds[3], seconds[4]]), 1_276_020_076);
    assert_eq!(decode(&[(base_time, &seconds), (value, &[0x05]), (time, &double(0.1))]), ["d power@1276020076100=50"]);
    assert_eq!(decode(&[(base_value, &[0x14]), (value, &double(0.1))]), ["d power@r+0=201"]);
    // 4([-1, 3]), the decimal 0.3, beside a double; and a double that is all but nothing.
    assert_eq!(decode(&[(base_value, &[0xc4, 0x82, 0x20, 0x03]), (value, &double(0.1))]), ["d power@r+0=4"]);
    assert_eq!(decode(&[(base_value, &[0x14]), (value, &double(1e-30))]), ["d power@r+0=200"]);
    assert_eq!(
        decode(&[(base_time, &double(1_276_020_076.001)), (value, &double(1e-300)), (time, &double(-5.0))]),
        ["d power@1276020071001=0"]
    );
}

#[test]
fn senml_sums_count_towards_the_limit_of_readings() {
    let metrics = vec![metric("energy", "Wh", 3), metric("power", "W", 1)];
    let fields = vec![field("power", "power", None), field("power#s", "energy", Some("J"))];
    let rules = source("#", Codec::SenmlJson, DeviceNaming::Constant("d".to_owned()), fields);
    let limits = Limits { readings: 4, ..Limits::default() };
    let (decoder, _) = Decoder::new(&[(Digest::of(b"m"), model(metrics, vec![rules]))], limits);
    let record = r#"{"n":"power","v":1,"s":1}"#;
    let lines = Bench { decoder }.decode("t", format!("[{record},{record},{record}]").as_bytes());
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!(lines[4], "OversizePayload Message");
}

#[test]
fn senml_flaws_are_told() {
    let mut bench = senml(DeviceNaming::PayloadPath("bn".to_owned()), Codec::SenmlJson);
    assert_eq!(bench.decode("t", br#"[{"bver":11,"n":"a","v":1}]"#), ["MalformedPayload Message"]);
    assert_eq!(bench.decode("t", br#"[{"n":"a","v":1,"must_":1}]"#), ["MalformedPayload Message"]);
    assert_eq!(bench.decode("t", br#"{"n":"a","v":1}"#), ["MalformedPayload Message"]);
    assert_eq!(bench.decode("t", br#"[{"v":1}]"#), ["NoDeviceName Device"]);
    assert_eq!(
        bench.decode("t", br#"[{"bn":"d:","n":"voltage","u":"Cel","v":1},{"n":"current","v":2,"u":"A"}]"#),
        ["d current@r+0=2000", "UnknownUnit voltage"]
    );
    assert_eq!(bench.decode("t", br#"[{"bn":"d:","n":"voltage","vs":"x"}]"#), ["NotANumber voltage"]);
    assert_eq!(
        bench.decode("t", br#"[{"bn":"d:","bv":100,"n":"voltage","v":0.5},{"n":"voltage","v":1,"t":-2}]"#),
        ["d voltage@r+0=1005", "d voltage@r-2000=1010"]
    );
}

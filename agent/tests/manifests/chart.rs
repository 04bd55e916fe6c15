//! The Helm chart: with the same choices it renders the objects of kustomize, and every value reaches
//! them.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml::Value;

use super::template::render;
use super::{agent, mebibytes, objects, read};

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

fn defaults() -> Value {
    yaml(&read("helm/values.yaml"))
}

/// The objects that the chart renders with the defaults and these values. Helm merges values in the
/// same way, except that it also merges mappings.
fn rendered(values: &str) -> Vec<Value> {
    let mut all = defaults();
    for (key, value) in yaml(values).as_mapping().unwrap() {
        assert!(!all[key].is_null(), "{key:?} is not in values.yaml");
        all[key] = value.clone();
    }
    let files = ["helm/templates/sluice.yaml", "helm/templates/metrics.yaml"];
    files.iter().flat_map(|file| objects(&render(&read(file), &all))).collect()
}

fn by_kind_and_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let key = |object: &Value| {
        let [kind, name] = [&object["kind"], &object["metadata"]["name"]].map(Value::as_str);
        format!("{} {}", kind.unwrap(), name.unwrap())
    };
    objects.into_iter().map(|object| (key(&object), object)).collect()
}

fn keys(mapping: &Value) -> BTreeSet<&str> {
    mapping.as_mapping().unwrap().keys().map(|key| key.as_str().unwrap()).collect()
}

#[test]
fn helm_chart_renders_the_objects_of_kustomize() {
    let rendered = rendered("{}");
    assert_eq!(rendered.len(), 5);
    assert_eq!(rendered, objects(&read("sluice.yaml")));
}

/// The objects of kustomize with the component of the metrics, which appends to lists of the DaemonSet
/// and has a Service.
fn with_metrics() -> Vec<Value> {
    let mut expected = objects(&read("sluice.yaml"));
    let component = yaml(&read("metrics/kustomization.yaml"));
    let set = expected.iter_mut().find(|object| object["kind"] == "DaemonSet").unwrap();
    for patch in component["patches"].as_sequence().unwrap() {
        for operation in yaml(patch["patch"].as_str().unwrap()).as_sequence().unwrap() {
            assert_eq!(operation["op"], "add");
            let path = operation["path"].as_str().unwrap().strip_suffix("/-").unwrap();
            let list = path.split('/').skip(1).fold(&mut *set, |value, part| {
                match part.parse::<usize>() {
                    Ok(index) => &mut value[index],
                    Err(_) => &mut value[part],
                }
            });
            list.as_sequence_mut().unwrap().push(operation["value"].clone());
        }
    }
    let mut service = objects(&read("metrics/service.yaml")).remove(0);
    let labels = &yaml(&read("kustomization.yaml"))["labels"][0]["pairs"];
    service["metadata"]["labels"] = labels.clone();
    expected.push(service);
    expected
}

#[test]
fn helm_chart_with_metrics_renders_the_objects_of_the_kustomize_component() {
    let rendered = by_kind_and_name(rendered("exposeMetrics: true"));
    assert_eq!(rendered.len(), 6);
    assert_eq!(rendered, by_kind_and_name(with_metrics()));
}

const OTHER_VALUES: &str = "
image: registry/sluice@sha256:00
imagePullSecrets: [{name: registry}]
extraArgs: ['--mtu=1400', '--uplink=a: b']
nodePortAddresses: [127.0.0.0/8, 10.0.0.0/8]
exposeMetrics: true
resources: {requests: {memory: 64Mi}, limits: {cpu: '1'}}
priorityClassName: other
nodeSelector: {pool: a}
tolerations: [{key: pool, operator: Exists}, {key: b, operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}
updateStrategy: {type: OnDelete}
podAnnotations: {example.org/a: 'true'}
podLabels: {example.org/team: net}
";

#[test]
fn values_of_the_helm_chart_reach_the_daemonset() {
    let values = yaml(OTHER_VALUES);
    let set = rendered(OTHER_VALUES).into_iter().find(|o| o["kind"] == "DaemonSet").unwrap();
    let template = &set["spec"]["template"];
    let spec = &template["spec"];
    let agent = agent(spec);
    for container in [&spec["initContainers"][0], agent] {
        assert_eq!(container["image"], values["image"]);
    }
    for field in
        ["imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations", "affinity"]
    {
        assert_eq!(spec[field], values[field], "{field}");
    }
    assert_eq!(agent["resources"], values["resources"]);
    assert_eq!(mebibytes(&agent["resources"]["requests"]["memory"]), 64);
    assert_eq!(set["spec"]["updateStrategy"], values["updateStrategy"]);
    let command = agent["command"].as_sequence().unwrap();
    let expected = yaml(
        "['--nodeport-addresses=127.0.0.0/8', '--nodeport-addresses=10.0.0.0/8', \
         '--metrics-bind=0.0.0.0:10249', '--mtu=1400', '--uplink=a: b']",
    );
    assert_eq!(command[command.len() - 5..], *expected.as_sequence().unwrap());
    // Those of the chart stay.
    let metadata = &template["metadata"];
    assert_eq!(metadata["annotations"]["example.org/a"], "true");
    assert_eq!(metadata["annotations"]["kubectl.kubernetes.io/default-container"], "agent");
    assert_eq!(metadata["labels"]["example.org/team"], "net");
    assert_eq!(metadata["labels"]["app.kubernetes.io/name"], "sluice");
}

#[test]
fn every_value_is_in_the_schema_and_in_a_test_and_differs_from_its_default() {
    let (defaults, other) = (defaults(), yaml(OTHER_VALUES));
    assert_eq!(keys(&defaults), keys(&other));
    for key in keys(&defaults) {
        assert_ne!(defaults[key], other[key], "{key}");
    }
    let schema = yaml(&read("helm/values.schema.json"));
    assert_eq!(schema["additionalProperties"], false);
    let mut described = keys(&schema["properties"]);
    assert!(described.remove("global"), "Helm adds it to the values of a chart in another one");
    assert!(described.remove("enabled"), "the usual name of a condition of a chart in another one");
    assert_eq!(described, keys(&defaults));
    for (key, value) in [&defaults, &other].iter().flat_map(|v| v.as_mapping().unwrap()) {
        let kind = match value {
            Value::Bool(_) => "boolean",
            Value::String(_) => "string",
            Value::Sequence(_) => "array",
            Value::Mapping(_) => "object",
            _ => panic!("{key:?} is {value:?}"),
        };
        assert_eq!(schema["properties"][key]["type"], kind, "{key:?}");
    }
}

#[test]
fn labels_and_annotations_of_the_chart_are_refused_as_values() {
    let set = rendered("{}").into_iter().find(|o| o["kind"] == "DaemonSet").unwrap();
    let metadata = &set["spec"]["template"]["metadata"];
    let schema = yaml(&read("helm/values.schema.json"));
    for (value, own) in [("podLabels", "labels"), ("podAnnotations", "annotations")] {
        let own: Vec<_> = keys(&metadata[own]).into_iter().collect();
        assert_eq!(
            own,
            [schema["properties"][value]["propertyNames"]["not"]["const"].as_str().unwrap()]
        );
    }
}

#[test]
fn every_value_is_documented_on_the_installation_page() {
    let page = read("../docs/install.md");
    for key in keys(&defaults()) {
        assert!(page.contains(&format!("`{key}`")), "docs/install.md does not have {key}");
    }
}

#[test]
fn chart_and_programs_have_one_version() {
    let chart = yaml(&read("helm/Chart.yaml"));
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
}

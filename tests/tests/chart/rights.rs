//! What each account of the release may do, both ways: asked of a real API server for every verb on everything that it serves, and compared with
//! the lists here. A right too much fails as one too few does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use depin_tests::ControlPlane;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use crate::helm::{AGENTS, Helm, NAMESPACE, RELEASE, values_of};

/// A namespace of fleets and devices, and one that is nobody's affair.
const TENANT: &str = "energy";
const OTHER: &str = "elsewhere";
/// Questions that are under way at once.
const AT_ONCE: usize = 32;
/// Verbs that RBAC knows beside those that a resource is served with.
const SPECIAL: [&str; 12] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "approve",
    "query",
    "impersonate",
    "*",
];
/// What only these are asked about.
const PARTICULAR: [(&str, &[&str]); 4] = [
    ("rbac.authorization.k8s.io", &["bind", "escalate"]),
    ("certificates.k8s.io", &["sign", "attest"]),
    ("policy", &["use"]),
    ("authentication.k8s.io", &["impersonate"]),
];
/// Resources that RBAC knows and no path serves.
const UNSERVED: [(&str, &str); 8] = [
    ("", "users"),
    ("", "groups"),
    ("", "*"),
    ("*", "*"),
    ("depin.dev", "ledger"),
    ("depin.dev", "*"),
    ("certificates.k8s.io", "signers"),
    ("authentication.k8s.io", "userextras/scopes"),
];

/// Everybody whom the API server knows may ask about themselves.
const EVERYBODY: &str = "
selfsubjectaccessreviews.authorization.k8s.io create
selfsubjectrulesreviews.authorization.k8s.io create
selfsubjectreviews.authentication.k8s.io create
";
/// What the operator does wherever it watches.
const OPERATOR_WATCHES: &str = "
edgefleets.depin.dev get list watch
edgefleets/status.depin.dev patch
rewardprograms.depin.dev get list watch
rewardprograms/status.depin.dev patch
edgeagents.depin.dev get list watch create approve
edgeagents/status.depin.dev patch
edgedevices.depin.dev get list watch create approve
edgedevices/status.depin.dev patch
edgeenrollments.depin.dev get list watch create delete
edgeenrollments/status.depin.dev patch
rewardepochs.depin.dev get list watch create patch delete
rewardepochs/status.depin.dev patch
events.events.k8s.io create patch
";
/// Of what lies in no namespace.
const OPERATOR_EVERYWHERE: &str = "
edgedevicemodels.depin.dev get list watch
edgedevicemodels/status.depin.dev patch
tokenreviews.authentication.k8s.io create
subjectaccessreviews.authorization.k8s.io create
";
/// In its own namespace.
const OPERATOR_AT_HOME: &str = "
secrets create
secrets=depin-ca get update
secrets=depin-gateway-tls get patch
configmaps create
configmaps=depin-ca get patch
configmaps=depin-roll-call-edgedevicemodel get update
configmaps=depin-roll-call-edgefleet get update
configmaps=depin-roll-call-edgedevice get update
configmaps=depin-roll-call-rewardprogram get update
leases.coordination.k8s.io create
leases.coordination.k8s.io=depin-operator get update
";
/// Where agents mount the CA.
const OPERATOR_AT_AGENTS: &str = "configmaps=depin-ca get create patch";
/// Where Events of what lies in no namespace are told, if nowhere else.
const OPERATOR_IN_DEFAULT: &str = "events.events.k8s.io create patch";
/// `helm test` and whoever asks the ledger like it.
const TEST: &str = "
ledger.depin.dev query
serviceaccounts/token=depin-test create
pods list
pods/portforward get create
";
const VIEW: &str = "
edgedevicemodels.depin.dev get list watch
rewardprograms.depin.dev get list watch
rewardepochs.depin.dev get list watch
";
const EDIT: &str = "
edgefleets.depin.dev get list watch create update patch delete
edgeagents.depin.dev get list watch create update patch delete
edgedevices.depin.dev get list watch create update patch delete
edgeenrollments.depin.dev get list watch create update patch delete
edgeenrollments/status.depin.dev patch
rewardprograms.depin.dev get list watch create update patch delete
";
const APPROVE: &str = "
edgefleets.depin.dev approve
edgeagents.depin.dev approve
edgedevices.depin.dev approve
edgeenrollments.depin.dev approve
";

/// `secrets=depin-ca get`: a resource with its group and, where it is for one object, its name; and a verb.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    resource: String,
    name: Option<String>,
    verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{}{dot}{}", self.resource, self.group)?;
        self.name.iter().try_for_each(|name| write!(f, "={name}"))?;
        write!(f, " {}", self.verb)
    }
}

type Rights = BTreeSet<Right>;

fn rights(lists: &[&str]) -> Rights {
    let lines = lists.iter().flat_map(|list| list.lines()).filter(|line| !line.is_empty());
    let mut all = Rights::new();
    for line in lines {
        let (what, verbs) = line.split_once(' ').unwrap();
        let (what, name) = what.split_once('=').map_or((what, None), |(what, name)| (what, Some(name.to_owned())));
        let (resource, group) = what.split_once('.').unwrap_or((what, ""));
        let right = |verb: &str| Right {
            group: group.to_owned(),
            resource: resource.to_owned(),
            name: name.clone(),
            verb: verb.to_owned(),
        };
        all.extend(verbs.split(' ').map(right));
    }
    all
}

/// Whom the API server takes somebody for.
#[derive(Clone, Debug)]
struct Subject {
    user: String,
    groups: Vec<String>,
}

impl Subject {
    fn account(namespace: &str, name: &str) -> Self {
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ];
        Self { user: format!("system:serviceaccount:{namespace}:{name}"), groups: groups.into() }
    }

    fn person(name: &str) -> Self {
        Self { user: name.to_owned(), groups: vec!["system:authenticated".to_owned()] }
    }
}

/// A cluster with the release.
struct World {
    plane: ControlPlane,
    config: Config,
    client: Client,
    /// Group, resource (with its subresource) and verbs of everything that is served or that RBAC knows.
    served: Vec<(String, String, BTreeSet<String>)>,
}

impl World {
    async fn start(helm: Helm, values: &str) -> Self {
        let plane = tokio::task::block_in_place(|| {
            let plane = ControlPlane::start().unwrap();
            for namespace in [NAMESPACE, AGENTS, TENANT, "weather", OTHER] {
                plane.run_kubectl(&["create", "namespace", namespace]).unwrap();
            }
            let helm = helm.on(plane.kubeconfig());
            helm.run(&["install", RELEASE, ".", "-n", NAMESPACE, "-f", values, "--set", "agent.createNamespace=false"]);
            // What `helm test` makes.
            let rendered = helm.objects(&["-f", values]);
            let hooks = rendered.0.iter().filter(|object| !object["metadata"]["annotations"]["helm.sh/hook"].is_null());
            for object in hooks.filter(|object| object["kind"] != "Pod") {
                let file = plane.dir().join("hook.json");
                std::fs::write(&file, object.to_string()).unwrap();
                plane.run_kubectl(&["create", "-f", file.to_str().unwrap()]).unwrap();
            }
            plane
        });
        let config = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let config = depin_operator::cluster::reach(config);
        let client = Client::try_from(config.clone()).unwrap();
        let mut world = Self { plane, config, client, served: Vec::new() };
        world.served = world.discover().await;
        world
    }

    /// Everything that the API server serves, and what RBAC knows beside it.
    async fn discover(&self) -> Vec<(String, String, BTreeSet<String>)> {
        let mut found: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        let mut add = |group: &str, resource: &str, verbs: Vec<String>| {
            let particular = PARTICULAR.iter().filter(|(of, _)| *of == group).flat_map(|(_, verbs)| verbs.iter());
            let verbs = verbs.into_iter().chain(SPECIAL.iter().chain(particular).map(|verb| (*verb).to_owned()));
            found.entry((group.to_owned(), resource.to_owned())).or_default().extend(verbs);
        };
        let mut versions = vec![(String::new(), "v1".to_owned())];
        for group in self.client.list_api_groups().await.unwrap().groups {
            let of_group = group.versions.iter().map(|version| (group.name.clone(), version.group_version.clone()));
            versions.extend(of_group);
        }
        for (group, version) in versions {
            let listed = if group.is_empty() {
                self.client.list_core_api_resources(&version).await.unwrap()
            } else {
                self.client.list_api_group_resources(&version).await.unwrap()
            };
            for resource in listed.resources {
                add(&group, &resource.name, resource.verbs);
            }
        }
        UNSERVED.iter().for_each(|(group, resource)| add(group, resource, Vec::new()));
        let served: Vec<_> = found.into_iter().map(|((group, resource), verbs)| (group, resource, verbs)).collect();
        assert!(
            served.iter().any(|(_, resource, _)| resource == "pods/exec") && served.len() > 100,
            "{}",
            served.len()
        );
        served
    }

    /// What RBAC gives `subject` in a namespace, as the API server tells it to itself.
    async fn rules(&self, subject: &Subject, namespace: &str) -> Rights {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(subject.user.clone());
        config.auth_info.impersonate_groups = Some(subject.groups.clone());
        let reviews: Api<SelfSubjectRulesReview> = Api::all(Client::try_from(config).unwrap());
        let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
        let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
        let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
        assert!(!status.incomplete, "{:?}", status.evaluation_error);
        status.resource_rules.iter().flat_map(of_rule).collect()
    }

    async fn may(&self, subject: &Subject, namespace: &str, right: &Right) -> bool {
        let (resource, part) =
            right.resource.split_once('/').map_or((right.resource.as_str(), None), |(a, b)| (a, Some(b)));
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let attributes = ResourceAttributes {
            group: text(&right.group),
            namespace: text(namespace),
            resource: text(resource),
            subresource: part.map(str::to_owned),
            verb: text(&right.verb),
            name: right.name.clone(),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(subject.user.clone()),
            groups: Some(subject.groups.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
    }

    /// Every verb on everything: what is allowed of it.
    async fn allowed(&self, subject: &Subject, namespace: &str, names: &[Option<&str>]) -> Rights {
        let questions = self.served.iter().flat_map(|(group, resource, verbs)| {
            verbs.iter().flat_map(move |verb| {
                names.iter().map(move |name| Right {
                    group: group.clone(),
                    resource: resource.clone(),
                    name: name.map(str::to_owned),
                    verb: verb.clone(),
                })
            })
        });
        let answers = stream::iter(questions).map(|right| async {
            let allowed = self.may(subject, namespace, &right).await;
            allowed.then_some(right)
        });
        answers.buffer_unordered(AT_ONCE).filter_map(|right| async { right }).collect().await
    }

    /// In this namespace (empty: in none) `subject` may do what is listed, and nothing else of all that can be asked.
    async fn check(&self, who: &str, subject: &Subject, namespace: &str, lists: &[&str]) {
        let expected = rights(&[lists, &[EVERYBODY]].concat());
        if !namespace.is_empty() {
            same(&format!("{who} in {namespace}, by its rules"), &self.rules(subject, namespace).await, &expected);
        }
        // Of no object in particular, and of one that is nobody's.
        let unnamed: Rights = expected.iter().filter(|right| right.name.is_none()).cloned().collect();
        same(&format!("{who} in {namespace:?}"), &self.allowed(subject, namespace, &[None]).await, &unnamed);
        for right in &expected {
            assert!(self.may(subject, namespace, right).await, "{who} in {namespace:?}: {right}");
            if right.name.is_some() {
                let other = Right { name: Some("other".to_owned()), ..right.clone() };
                let any = Right { name: None, ..right.clone() };
                let may = self.may(subject, namespace, &other).await;
                assert_eq!(may, expected.contains(&any), "{who} in {namespace:?}: {other}");
            }
        }
    }
}

fn of_rule(rule: &ResourceRule) -> Rights {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let names = list(&rule.resource_names);
    let names: Vec<Option<String>> = if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
    let mut all = Rights::new();
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for (verb, name) in rule.verbs.iter().flat_map(|verb| names.iter().map(move |name| (verb, name))) {
                let (group, resource) = (group.clone(), resource.clone());
                all.insert(Right { group, resource, name: name.clone(), verb: verb.clone() });
            }
        }
    }
    all
}

fn same(who: &str, actual: &Rights, expected: &Rights) {
    let texts = |rights: &mut dyn Iterator<Item = &Right>| rights.map(ToString::to_string).collect::<Vec<_>>();
    let (more, less) = (texts(&mut actual.difference(expected)), texts(&mut expected.difference(actual)));
    assert!(more.is_empty() && less.is_empty(), "{who} may do too much: {more:#?}, too little: {less:#?}");
}

/// The accounts of all releases, whatever the operator watches.
async fn check_the_others(world: &World) {
    for (account, home) in [("depin-gateway", NAMESPACE), ("depin-agent", AGENTS)] {
        let subject = Subject::account(home, account);
        for namespace in ["", home, TENANT] {
            world.check(account, &subject, namespace, &[]).await;
        }
    }
    let test = Subject::account(NAMESPACE, "depin-test");
    world.check("the test's account", &test, NAMESPACE, &[TEST]).await;
    for namespace in ["", TENANT] {
        world.check("the test's account", &test, namespace, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_account_may_do_what_it_does_and_nothing_else() {
    let Some(helm) = Helm::find() else { return };
    let world = World::start(helm, &values_of("default")).await;
    let operator = Subject::account(NAMESPACE, "depin-operator");
    let everywhere = [OPERATOR_WATCHES, OPERATOR_EVERYWHERE];
    world.check("the operator", &operator, "", &everywhere).await;
    for namespace in [TENANT, OTHER] {
        world.check("the operator", &operator, namespace, &everywhere).await;
    }
    world.check("the operator", &operator, NAMESPACE, &[&everywhere[..], &[OPERATOR_AT_HOME]].concat()).await;
    world.check("the operator", &operator, AGENTS, &[&everywhere[..], &[OPERATOR_AT_AGENTS]].concat()).await;
    check_the_others(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_watched_namespaces_the_operator_may_do_nothing_in_others() {
    let Some(helm) = Helm::find() else { return };
    let world = World::start(helm, &values_of("namespaced")).await;
    let operator = Subject::account(NAMESPACE, "depin-operator");
    for (namespace, lists) in [
        ("", &[][..]),
        (OTHER, &[]),
        (TENANT, &[OPERATOR_WATCHES]),
        ("weather", &[OPERATOR_WATCHES]),
        ("default", &[OPERATOR_IN_DEFAULT]),
        (NAMESPACE, &[OPERATOR_AT_HOME]),
        (AGENTS, &[OPERATOR_AT_AGENTS]),
    ] {
        world.check("the operator", &operator, namespace, &[lists, &[OPERATOR_EVERYWHERE]].concat()).await;
    }
    check_the_others(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_may_do_what_their_role_says_and_nothing_else() {
    let Some(helm) = Helm::find() else { return };
    let world = World::start(helm, &values_of("default")).await;
    let kubectl = |arguments: &[&str]| tokio::task::block_in_place(|| world.plane.run_kubectl(arguments).unwrap());
    // What the cluster's own controller adds to its roles, by their labels.
    let roles: Value = serde_json::from_str(&kubectl(&["get", "clusterroles", "-o", "json"])).unwrap();
    for (person, target, lists) in
        [("viewer", "view", &[VIEW][..]), ("editor", "edit", &[VIEW, EDIT]), ("owner", "admin", &[VIEW, EDIT, APPROVE])]
    {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{target}");
        let ours = roles["items"].as_array().unwrap().iter().filter(|role| {
            role["metadata"]["labels"][&label] == "true"
                && role["metadata"]["name"].as_str().unwrap().starts_with(RELEASE)
        });
        for role in ours {
            let role = role["metadata"]["name"].as_str().unwrap();
            let (name, role) = (format!("{person}-{role}"), format!("--clusterrole={role}"));
            kubectl(&["create", "rolebinding", &name, &role, &format!("--user={person}"), "-n", TENANT]);
        }
        let subject = Subject::person(person);
        world.check(person, &subject, TENANT, lists).await;
        for namespace in ["", OTHER, NAMESPACE] {
            world.check(person, &subject, namespace, &[]).await;
        }
    }
    // Whoever is bound to nothing may do nothing.
    world.check("a stranger", &Subject::person("stranger"), TENANT, &[]).await;
}

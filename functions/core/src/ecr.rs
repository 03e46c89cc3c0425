//! Hosts of Amazon ECR: the account and the region in a host's name, and whether its suffix belongs to AWS.
//!
//! An event of ECR contains an account and a region. They are compared with those of the configured hosts, in every
//! partition and form of host. No host is ever built from an event.

use crate::image::Registry;

/// The suffixes of AWS's partitions, with and without IPv6. Sources: Amazon ECR user guide, "Making requests to Amazon
/// ECR registries" (`on.aws`); awslabs/amazon-ecr-credential-helper, `ecr-login/api/client.go`, "ecrPattern"; for
/// `amazonwebservices.eu`, `partitions.json` of the AWS SDKs and Renovate's `datasource/docker/ecr.ts`.
const SUFFIXES: [&str; 10] = [
    "amazonaws.com",
    "on.aws",
    "amazonaws.com.cn",
    "on.amazonwebservices.com.cn",
    "amazonaws.eu",
    "on.amazonwebservices.eu",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
];

/// A host in a form of ECR: `ACCOUNT.dkr.ecr[-fips].REGION.SUFFIX`, or with `dkr-ecr[-fips]` for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EcrHost<'a> {
    pub account: &'a str,
    pub region: &'a str,
    suffix: &'a str,
}

impl<'a> EcrHost<'a> {
    /// Splits a host into its parts; `None` if it doesn't have the form of an ECR host. Accepts any suffix.
    pub fn parse(registry: &'a Registry) -> Option<Self> {
        let (account, rest) = registry.normal().split_once('.')?;
        let rest = ["dkr.ecr.", "dkr.ecr-fips.", "dkr-ecr.", "dkr-ecr-fips."]
            .iter()
            .find_map(|it| rest.strip_prefix(it))?;
        let (region, suffix) = rest.split_once('.')?;
        is_account(account).then_some(Self {
            account,
            region,
            suffix,
        })
    }

    /// Whether the suffix belongs to AWS. Only such a host gets credentials.
    pub fn is_of_aws(&self) -> bool {
        SUFFIXES.contains(&self.suffix)
    }
}

/// Whether this is an account id: twelve digits.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|it| it.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the account, the region, and whether the host belongs to AWS.
    fn check(host: &str, expected: Option<(&str, bool)>) {
        let registry = Registry::parse(host).unwrap();
        let parsed = EcrHost::parse(&registry);
        assert_eq!(
            parsed.map(|it| (it.region, it.is_of_aws())),
            expected,
            "{host}"
        );
        assert!(
            parsed.is_none_or(|it| it.account == "123456789012"),
            "{host}"
        );
    }

    #[test]
    fn account_and_region_are_parsed_in_every_partition_and_form() {
        for (host, region) in [
            ("dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1"),
            ("dkr.ecr.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("dkr.ecr-fips.us-east-1.amazonaws.com", "us-east-1"),
            ("dkr-ecr.us-east-1.on.aws", "us-east-1"),
            ("dkr-ecr-fips.us-east-1.on.aws", "us-east-1"),
            ("dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            (
                "dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
                "cn-north-1",
            ),
            ("dkr.ecr.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
            (
                "dkr-ecr.eusc-de-east-1.on.amazonwebservices.eu",
                "eusc-de-east-1",
            ),
            ("dkr.ecr.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
            ("dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
            ("dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1"),
            ("dkr.ecr.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1"),
            ("dkr.ecr.eu-west-1.amazonaws.com:443", "eu-west-1"),
        ] {
            check(&format!("123456789012.{host}"), Some((region, true)));
        }
    }

    #[test]
    fn another_suffix_is_compared_but_does_not_belong_to_aws() {
        for host in [
            "dkr.ecr.eu-west-1.example.com",
            "dkr.ecr.eu-west-1.amazonaws.com.example.com",
            "dkr.ecr.eu-west-1.example.amazonaws.com",
            "dkr.ecr.eu-west-1.amazonaws.com:8443",
            "dkr.ecr.eu-west-1.amazonaws.com.cn.example",
        ] {
            check(&format!("123456789012.{host}"), Some(("eu-west-1", false)));
        }
    }

    #[test]
    fn a_host_without_the_form_of_ecr_is_not_parsed() {
        for host in [
            "12345678901.dkr.ecr.eu-west-1.amazonaws.com",
            "a23456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr-other.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1",
            "x.123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "public.ecr.aws",
            "h.io",
        ] {
            check(host, None);
        }
    }
}

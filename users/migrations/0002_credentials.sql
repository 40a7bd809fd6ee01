-- What a device connects to the MQTT broker with. A device's name is unique in the installation. The password is
-- kept, sealed, so that a broker that lost its accounts can be given them again without a visit to every device.

CREATE TABLE credentials (
    device       text PRIMARY KEY CHECK (device ~ '^[A-Za-z0-9._:-]{1,128}$'),
    organisation uuid NOT NULL,
    site         text NOT NULL,
    name         text NOT NULL DEFAULT '',
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    rotated_at   timestamptz,
    revoked_at   timestamptz,
    FOREIGN KEY (organisation, site) REFERENCES sites
);
CREATE INDEX credentials_of_site ON credentials (organisation, site, device);

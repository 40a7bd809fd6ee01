-- Every row bears its organisation, and every key that leads to another table carries it along: a row of one
-- organisation cannot point into another.

CREATE TABLE organisations (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A site's name is a part of MQTT topics: one installation has it once.
CREATE TABLE sites (
    organisation uuid NOT NULL REFERENCES organisations,
    site         text NOT NULL UNIQUE CHECK (site ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    name         text NOT NULL,
    time_zone    text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organisation, site)
);

CREATE TABLE people (
    organisation   uuid NOT NULL REFERENCES organisations,
    id             uuid NOT NULL DEFAULT gen_random_uuid(),
    email          text NOT NULL,
    name           text NOT NULL,
    language       text NOT NULL DEFAULT 'en' CHECK (language IN ('en', 'ko')),
    password       text NOT NULL,              -- argon2id
    epoch          int NOT NULL DEFAULT 1,     -- sessions of an earlier one have ended
    totp_secret    bytea,                      -- sealed
    totp_since     timestamptz,                -- null while the secret is not confirmed
    totp_last_step bigint NOT NULL DEFAULT 0,  -- a code counts once
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organisation, id)
);
CREATE UNIQUE INDEX people_email ON people (lower(email));
CREATE UNIQUE INDEX people_id ON people (id);

CREATE TABLE memberships (
    organisation uuid NOT NULL,
    person       uuid NOT NULL,
    site         text NOT NULL,
    role         text NOT NULL CHECK (role IN ('owner', 'manager', 'staff', 'auditor', 'technician')),
    since        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organisation, person, site),
    FOREIGN KEY (organisation, person) REFERENCES people ON DELETE CASCADE,
    FOREIGN KEY (organisation, site) REFERENCES sites
);
CREATE INDEX memberships_of_site ON memberships (organisation, site, person);

CREATE TABLE recovery_codes (
    organisation uuid NOT NULL,
    person       uuid NOT NULL,
    mac          bytea NOT NULL,
    used_at      timestamptz,
    PRIMARY KEY (organisation, person, mac),
    FOREIGN KEY (organisation, person) REFERENCES people ON DELETE CASCADE
);

CREATE TABLE invitations (
    organisation uuid NOT NULL,
    id           uuid NOT NULL DEFAULT gen_random_uuid(),
    site         text NOT NULL,
    email        text NOT NULL,
    role         text NOT NULL CHECK (role IN ('owner', 'manager', 'staff', 'auditor', 'technician')),
    sha256       bytea NOT NULL UNIQUE,
    invited_by   uuid NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    accepted_at  timestamptz,
    revoked_at   timestamptz,
    PRIMARY KEY (organisation, id),
    FOREIGN KEY (organisation, site) REFERENCES sites,
    FOREIGN KEY (organisation, invited_by) REFERENCES people ON DELETE CASCADE
);
CREATE UNIQUE INDEX invitations_open ON invitations (organisation, site, lower(email))
    WHERE accepted_at IS NULL AND revoked_at IS NULL;

-- What a link in a mail proves: a new password, a new address.
CREATE TABLE mailed_tokens (
    organisation uuid NOT NULL,
    person       uuid NOT NULL,
    sha256       bytea PRIMARY KEY,
    purpose      text NOT NULL CHECK (purpose IN ('password', 'email')),
    email        text,
    expires_at   timestamptz NOT NULL,
    FOREIGN KEY (organisation, person) REFERENCES people ON DELETE CASCADE
);
CREATE INDEX mailed_tokens_of_person ON mailed_tokens (organisation, person);

-- Mails wait here until a server took them. Their text holds tokens, so it is sealed.
CREATE TABLE mails (
    organisation uuid NOT NULL,
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    next_try     timestamptz NOT NULL DEFAULT now(),
    tries        int NOT NULL DEFAULT 0
);
CREATE INDEX mails_next ON mails (next_try);

CREATE TABLE api_keys (
    organisation uuid NOT NULL REFERENCES organisations,
    id           uuid NOT NULL DEFAULT gen_random_uuid(),
    prefix       text NOT NULL UNIQUE,
    sha256       bytea NOT NULL,
    name         text NOT NULL,
    scope        text NOT NULL CHECK (scope IN ('read', 'write')),
    created_by   uuid NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    PRIMARY KEY (organisation, id)
);

CREATE TABLE api_key_sites (
    organisation uuid NOT NULL,
    key          uuid NOT NULL,
    site         text NOT NULL,
    PRIMARY KEY (organisation, key, site),
    FOREIGN KEY (organisation, key) REFERENCES api_keys ON DELETE CASCADE,
    FOREIGN KEY (organisation, site) REFERENCES sites
);
CREATE INDEX api_key_sites_of_site ON api_key_sites (organisation, site);

-- Of the whole installation, as the issuer of tokens is one. The private half is sealed.
CREATE TABLE signing_keys (
    kid        text PRIMARY KEY,
    state      text NOT NULL CHECK (state IN ('next', 'current', 'previous')),
    public     bytea NOT NULL,
    sealed     bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    since      timestamptz NOT NULL DEFAULT now()  -- when it became what it is
);
CREATE UNIQUE INDEX signing_keys_one_of_each ON signing_keys (state);

-- The nil organisation holds what strangers did to accounts that do not exist.
CREATE TABLE audit_events (
    organisation uuid NOT NULL,
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    what         text NOT NULL,
    who          uuid,
    email        text,
    site         text,
    ip           text NOT NULL,
    request_id   text NOT NULL,
    detail       jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_events_of_site ON audit_events (organisation, site, id);
CREATE INDEX audit_events_of_person ON audit_events (organisation, who, id) WHERE site IS NULL;
CREATE INDEX audit_events_by_age ON audit_events (at);

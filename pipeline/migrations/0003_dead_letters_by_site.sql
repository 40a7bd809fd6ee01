-- Whoever asks the API for dead letters asks for those of their own sites: the third part of the topic.
CREATE INDEX IF NOT EXISTS dead_letters_by_site ON dead_letters (split_part(mqtt_topic, '/', 3), id);

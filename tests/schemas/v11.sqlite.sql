BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0011');
CREATE TABLE audit (
	number INTEGER NOT NULL, 
	time FLOAT NOT NULL, 
	item VARCHAR(32) NOT NULL, 
	who TEXT NOT NULL, 
	action VARCHAR(32) NOT NULL, 
	why TEXT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "audit" VALUES(1,1.79534003456092405319e+09,'1KTK3PV1R0000000','mailwarden','held','CLASSIFIER, score','b44d936d9e3b6d9a9be634acade0deeabc8a8c20d0ae123ad564b77257b2d0d2');
INSERT INTO "audit" VALUES(2,1.79534003469131040568e+09,'1KTK3PV1R0000001','mailwarden','held','CLASSIFIER, score','02af4e36eced1982d6da53567e607c0b700ffa137acf80b6ecf9a143ebe416b9');
INSERT INTO "audit" VALUES(3,1.79534003473485326762e+09,'1KTK3PV1R0000002','mailwarden','held','CLASSIFIER, score','259677b2777928a2430a1ed3708c383e22de49a6e9434a18bdf7f699560f0d6b');
INSERT INTO "audit" VALUES(4,1.79534003479490804669e+09,'1KTK3PV1R0000001','cli:eve','claimed','bob@example.com','be2d20e9d367d418472638575c27193fc464458e393fdfe085410a156f338b33');
INSERT INTO "audit" VALUES(5,1.79534003488377237318e+09,'1KTK3PV1R0000001','cli:eve','released','bob@example.com: bob@example.com','127539f804db0a9eedffdc97fb2074fcf2d56e60c16c5e6920168f059d740bb7');
INSERT INTO "audit" VALUES(6,1.7953400349287073612e+09,'1KTK3PV1R0000002','cli:eve','deleted','','5858959a29aa83e5466d38c2dbc8e82d07bfa07f55257b8b5b88dfa04b21cb7e');
CREATE TABLE digests (
	address VARCHAR(320) NOT NULL, 
	slot FLOAT NOT NULL, 
	lease_until FLOAT NOT NULL, 
	covered VARCHAR(32) NOT NULL, 
	sent FLOAT NOT NULL, 
	PRIMARY KEY (address)
)
 WITHOUT ROWID

;
CREATE TABLE dmarc_observations (
	day INTEGER NOT NULL, 
	domain VARCHAR(255) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	data TEXT NOT NULL, 
	count BIGINT NOT NULL, 
	PRIMARY KEY (day, domain, hash)
)
 WITHOUT ROWID

;
CREATE TABLE dmarc_policies (
	day INTEGER NOT NULL, 
	domain VARCHAR(255) NOT NULL, 
	record TEXT NOT NULL, 
	PRIMARY KEY (day, domain)
)
 WITHOUT ROWID

;
CREATE TABLE dmarc_reports (
	day INTEGER NOT NULL, 
	domain VARCHAR(255) NOT NULL, 
	destination VARCHAR(320) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	changed FLOAT NOT NULL, 
	note TEXT NOT NULL, 
	PRIMARY KEY (day, domain, destination)
)
 WITHOUT ROWID

;
CREATE TABLE journal (
	number INTEGER NOT NULL, 
	id VARCHAR(32) NOT NULL, 
	queue_id TEXT NOT NULL, 
	received FLOAT NOT NULL, 
	door TEXT NOT NULL, 
	client_ip TEXT NOT NULL, 
	helo TEXT NOT NULL, 
	sender TEXT NOT NULL, 
	recipients TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	message_id TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	action VARCHAR(16) NOT NULL, 
	score FLOAT NOT NULL, 
	reason TEXT NOT NULL, 
	seconds FLOAT NOT NULL, 
	session TEXT NOT NULL, 
	envelope TEXT NOT NULL, 
	evidence TEXT NOT NULL, 
	signals TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	reply TEXT NOT NULL, shaded TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "journal" VALUES(1,'1KTK3PV1R0000000','4XYZabc',1767607200.0,'milter','203.0.113.5','mx.example.net','alice@example.net','bob@example.com
carol@example.com','A chance','<1@example.net>',113,'quarantine',9.5,'score',0.1,'{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}','{"code":250,"enhanced":"2.0.0","text":"Ok"}','');
INSERT INTO "journal" VALUES(2,'1KTK3PV1R0000001','4XYZabc',1767607201.0,'milter','203.0.113.5','mx.example.net','alice@example.net','bob@example.com
carol@example.com','A chance','<1@example.net>',113,'quarantine',9.5,'score',0.1,'{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}','{"code":250,"enhanced":"2.0.0","text":"Ok"}','');
INSERT INTO "journal" VALUES(3,'1KTK3PV1R0000002','4XYZabc',1767607202.0,'milter','203.0.113.5','mx.example.net','alice@example.net','bob@example.com
carol@example.com','A chance','<1@example.net>',113,'quarantine',9.5,'score',0.1,'{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000002","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}','{"code":250,"enhanced":"2.0.0","text":"Ok"}','');
CREATE TABLE logins (
	hash VARCHAR(64) NOT NULL, 
	person VARCHAR(254) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	note TEXT NOT NULL, 
	made FLOAT NOT NULL, 
	used FLOAT NOT NULL, 
	expires FLOAT NOT NULL, 
	PRIMARY KEY (hash)
)
 WITHOUT ROWID

;
CREATE TABLE mta_sts (
	domain VARCHAR(255) NOT NULL, 
	ident VARCHAR(32) NOT NULL, 
	policy TEXT NOT NULL, 
	fetched FLOAT NOT NULL, 
	expires FLOAT NOT NULL, 
	used FLOAT NOT NULL, 
	PRIMARY KEY (domain)
)
 WITHOUT ROWID

;
CREATE TABLE people (
	name VARCHAR(254) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	addresses TEXT NOT NULL, 
	domains TEXT NOT NULL, 
	password TEXT NOT NULL, 
	changed FLOAT NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID

;
CREATE TABLE quarantine (
	id VARCHAR(32) NOT NULL, 
	queue_id TEXT NOT NULL, 
	received FLOAT NOT NULL, 
	held_at FLOAT NOT NULL, 
	client_ip TEXT NOT NULL, 
	helo TEXT NOT NULL, 
	sender TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	message_id TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	score FLOAT NOT NULL, 
	reason TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	changed FLOAT NOT NULL, 
	content INTEGER DEFAULT '1' NOT NULL, 
	judged_by TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "quarantine" VALUES('1KTK3PV1R0000000','4XYZabc',1767607200.0,1.79534003453740692137e+09,'203.0.113.5','mx.example.net','alice@example.net','A chance','<1@example.net>',113,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',9.5,'score','held',1.79534003453740692137e+09,1,'abc123 base-1 ');
INSERT INTO "quarantine" VALUES('1KTK3PV1R0000001','4XYZabc',1767607201.0,1.79534003469038224223e+09,'203.0.113.5','mx.example.net','alice@example.net','A chance','<1@example.net>',113,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',9.5,'score','held',1.79534003486543703082e+09,1,'abc123 base-1 ');
INSERT INTO "quarantine" VALUES('1KTK3PV1R0000002','4XYZabc',1767607202.0,1.79534003473401188848e+09,'','','alice@example.net','','',113,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',9.5,'score','deleted',1.7953400348921935559e+09,0,'abc123 base-1 ');
CREATE TABLE quarantine_bytes (
	item VARCHAR(32) NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (item)
);
INSERT INTO "quarantine_bytes" VALUES('1KTK3PV1R0000000',X'7801732BCACFB55270CCC94C4E55B04904510EA91589B90539A97A79A92576BC5C21F9560A49F94970D1E4FC5C5EAEE0D2A4ACD4E412A04685E48CC4BCE4545E2EDFD4E2E2C4F4545D4F172B051B43B8728821BC5C1EA93939F90A2F79B90063622488');
INSERT INTO "quarantine_bytes" VALUES('1KTK3PV1R0000001',X'7801732BCACFB55270CCC94C4E55B04904510EA91589B90539A97A79A92576BC5C21F9560A49F94970D1E4FC5C5EAEE0D2A4ACD4E412A04685E48CC4BCE4545E2EDFD4E2E2C4F4545D4F172B051B43B8728821BC5C1EA93939F90A2F79B90063622488');
CREATE TABLE quarantine_envelopes (
	item VARCHAR(32) NOT NULL, 
	session TEXT NOT NULL, 
	envelope TEXT NOT NULL, 
	held TEXT NOT NULL, 
	PRIMARY KEY (item)
);
INSERT INTO "quarantine_envelopes" VALUES('1KTK3PV1R0000000','{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','["bob@example.com","carol@example.com"]');
INSERT INTO "quarantine_envelopes" VALUES('1KTK3PV1R0000001','{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','["bob@example.com","carol@example.com"]');
CREATE TABLE quarantine_filters (
	name VARCHAR(64) NOT NULL, 
	who TEXT NOT NULL, 
	changed FLOAT NOT NULL, 
	options TEXT NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID

;
CREATE TABLE quarantine_judgements (
	item VARCHAR(32) NOT NULL, 
	number INTEGER NOT NULL, 
	time FLOAT NOT NULL, 
	evidence TEXT NOT NULL, 
	signals TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	PRIMARY KEY (item, number)
);
INSERT INTO "quarantine_judgements" VALUES('1KTK3PV1R0000000',0,1.79534003453740692137e+09,'{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}');
INSERT INTO "quarantine_judgements" VALUES('1KTK3PV1R0000001',0,1.79534003469038224223e+09,'{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}');
CREATE TABLE quarantine_orders (
	item VARCHAR(32) NOT NULL, 
	position INTEGER NOT NULL, 
	batch VARCHAR(32) NOT NULL, 
	due FLOAT NOT NULL, 
	who TEXT NOT NULL, 
	send_to TEXT NOT NULL, 
	wrapped INTEGER NOT NULL, 
	aloud INTEGER NOT NULL, 
	was VARCHAR(16) NOT NULL, 
	PRIMARY KEY (item, position)
)
 WITHOUT ROWID

;
CREATE TABLE quarantine_reach (
	"key" VARCHAR(330) NOT NULL, 
	item VARCHAR(32) NOT NULL, 
	PRIMARY KEY ("key", item)
)
 WITHOUT ROWID

;
INSERT INTO "quarantine_reach" VALUES('.com','1KTK3PV1R0000000');
INSERT INTO "quarantine_reach" VALUES('.com','1KTK3PV1R0000001');
INSERT INTO "quarantine_reach" VALUES('.com','1KTK3PV1R0000002');
INSERT INTO "quarantine_reach" VALUES('=bob@example.com','1KTK3PV1R0000000');
INSERT INTO "quarantine_reach" VALUES('=bob@example.com','1KTK3PV1R0000001');
INSERT INTO "quarantine_reach" VALUES('=bob@example.com','1KTK3PV1R0000002');
INSERT INTO "quarantine_reach" VALUES('=carol@example.com','1KTK3PV1R0000000');
INSERT INTO "quarantine_reach" VALUES('=carol@example.com','1KTK3PV1R0000001');
INSERT INTO "quarantine_reach" VALUES('=carol@example.com','1KTK3PV1R0000002');
INSERT INTO "quarantine_reach" VALUES('@example.com','1KTK3PV1R0000000');
INSERT INTO "quarantine_reach" VALUES('@example.com','1KTK3PV1R0000001');
INSERT INTO "quarantine_reach" VALUES('@example.com','1KTK3PV1R0000002');
CREATE TABLE quarantine_reasons (
	item VARCHAR(32) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	answered FLOAT DEFAULT '0' NOT NULL, 
	answered_by TEXT DEFAULT '' NOT NULL, 
	answer TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (item, name)
)
 WITHOUT ROWID

;
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000000','CLASSIFIER',0.0,'','');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000000','score',0.0,'','');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000001','CLASSIFIER',0.0,'','');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000001','score',0.0,'','');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000002','CLASSIFIER',0.0,'','');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000002','score',0.0,'','');
CREATE TABLE quarantine_recipients (
	item VARCHAR(32) NOT NULL, 
	position INTEGER NOT NULL, 
	address TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	lease VARCHAR(32) NOT NULL, 
	lease_until FLOAT NOT NULL, 
	changed FLOAT NOT NULL, 
	delivered_to TEXT NOT NULL, 
	note TEXT NOT NULL, 
	PRIMARY KEY (item, position)
)
 WITHOUT ROWID

;
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000000',0,'bob@example.com','held','',0.0,1.79534003453740692137e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000000',1,'carol@example.com','held','',0.0,1.79534003453740692137e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000001',0,'bob@example.com','released','',0.0,1.79534003486543703082e+09,'bob@example.com','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000001',1,'carol@example.com','held','',0.0,1.79534003469038224223e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000002',0,'bob@example.com','deleted','',0.0,1.7953400348921935559e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000002',1,'carol@example.com','deleted','',0.0,1.7953400348921935559e+09,'','');
CREATE TABLE quarantine_words (
	item VARCHAR(32) NOT NULL, 
	held_at FLOAT NOT NULL, 
	score FLOAT NOT NULL, 
	size BIGINT NOT NULL, 
	sender TEXT NOT NULL, 
	people TEXT NOT NULL, 
	subject TEXT NOT NULL, state VARCHAR(16) DEFAULT 'held' NOT NULL, 
	PRIMARY KEY (item)
)
 WITHOUT ROWID

;
INSERT INTO "quarantine_words" VALUES('1KTK3PV1R0000000',1.79534003453740692137e+09,9.5,113,'alice@example.net','bob@example.com
carol@example.com','a chance','held');
INSERT INTO "quarantine_words" VALUES('1KTK3PV1R0000001',1.79534003469038224223e+09,9.5,113,'alice@example.net','bob@example.com
carol@example.com','a chance','held');
INSERT INTO "quarantine_words" VALUES('1KTK3PV1R0000002',1.79534003473401188848e+09,9.5,113,'alice@example.net','bob@example.com
carol@example.com','','deleted');
CREATE TABLE queue_bytes (
	item VARCHAR(32) NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (item)
);
INSERT INTO "queue_bytes" VALUES('1KTK3PV1R0000009',X'7801732BCACFB55270CCC94C4E55B04904510EA91589B90539A97A79A92576BC5C21F9560A49F94970D1E4FC5C5EAEE0D2A4ACD4E412A04685E48CC4BCE4545E2EDFD4E2E2C4F4545D4F172B051B43B8728821BC5C1EA93939F90A2F79B90063622488');
CREATE TABLE queue_messages (
	id VARCHAR(32) NOT NULL, 
	created FLOAT NOT NULL, 
	expires FLOAT NOT NULL, 
	sender TEXT NOT NULL, 
	options TEXT NOT NULL, 
	may_bounce INTEGER NOT NULL, 
	warned FLOAT NOT NULL, 
	size BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "queue_messages" VALUES('1KTK3PV1R0000009',1767607200.0,1768039200.0,'a@example.net','[]',0,0.0,113);
CREATE TABLE queue_owners (
	owner VARCHAR(32) NOT NULL, 
	process TEXT NOT NULL, 
	expires FLOAT NOT NULL, 
	PRIMARY KEY (owner)
);
CREATE TABLE queue_recipients (
	number INTEGER NOT NULL, 
	item VARCHAR(32) NOT NULL, 
	address TEXT NOT NULL, 
	options TEXT NOT NULL, 
	hop TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	next_attempt FLOAT NOT NULL, 
	attempts INTEGER NOT NULL, 
	deaths INTEGER NOT NULL, 
	lease VARCHAR(32) NOT NULL, 
	changed FLOAT NOT NULL, 
	reply TEXT NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "queue_recipients" VALUES(1,'1KTK3PV1R0000009','bob@example.com','[]','smtp:mail.example.com:25','queued',1767607200.0,0,0,'',1767607200.0,'');
CREATE TABLE release_tokens (
	nonce VARCHAR(32) NOT NULL, 
	item VARCHAR(32) NOT NULL, 
	recipients TEXT NOT NULL, 
	expires FLOAT NOT NULL, 
	sha256 VARCHAR(64) DEFAULT '' NOT NULL, 
	size BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (nonce)
);
INSERT INTO "release_tokens" VALUES('36ba5d80efbc6c9b142e96e18a601f00','1KTK3PV1R0000001','["bob@example.com"]',1.79536163483797073367e+09,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',113);
CREATE TABLE samples (
	number INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	near0 BIGINT NOT NULL, 
	near1 BIGINT NOT NULL, 
	near2 BIGINT NOT NULL, 
	near3 BIGINT NOT NULL, 
	minima BLOB NOT NULL, 
	spam INTEGER NOT NULL, 
	origin VARCHAR(16) NOT NULL, 
	source TEXT NOT NULL, 
	time FLOAT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	features BLOB NOT NULL, 
	body BLOB NOT NULL, 
	owner TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "samples" VALUES(1,'abababababababababababababababababababababababababababababababab',1,2,3,4,X'00000000000000000000000000000000',1,'operator','cli:eve',1767607200.0,'learned',X'78',X'','');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	applied FLOAT NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(9,1.7953400345217943191e+09);
CREATE TABLE secrets (
	name VARCHAR(32) NOT NULL, 
	value BLOB NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "secrets" VALUES('audit-head',X'362035383538393539613239616138336535343636643338633264626338653832643037626661303766353532353762386235623838646661303462323163623765');
INSERT INTO "secrets" VALUES('release',X'99C5DFC1BB6D4E8207D59138FD3C92FCE71D5F806DBDB9E9E510A80E4E30FA7F');
CREATE TABLE senders (
	pattern VARCHAR(320) NOT NULL, 
	rule VARCHAR(16) NOT NULL, 
	who TEXT NOT NULL, 
	changed FLOAT NOT NULL, 
	why TEXT NOT NULL, 
	PRIMARY KEY (pattern)
)
 WITHOUT ROWID

;
CREATE TABLE spent_tokens (
	mac VARCHAR(64) NOT NULL, 
	item VARCHAR(32) NOT NULL, 
	used FLOAT NOT NULL, 
	expires FLOAT NOT NULL, 
	PRIMARY KEY (mac)
)
 WITHOUT ROWID

;
CREATE TABLE tls_hosts (
	host VARCHAR(255) NOT NULL, 
	security VARCHAR(16) NOT NULL, 
	seen FLOAT NOT NULL, 
	PRIMARY KEY (host)
)
 WITHOUT ROWID

;
CREATE TABLE tls_reports (
	day INTEGER NOT NULL, 
	domain VARCHAR(255) NOT NULL, 
	destination VARCHAR(1024) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	changed FLOAT NOT NULL, 
	note TEXT NOT NULL, 
	PRIMARY KEY (day, domain, destination)
)
 WITHOUT ROWID

;
CREATE TABLE tls_results (
	day INTEGER NOT NULL, 
	domain VARCHAR(255) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	data TEXT NOT NULL, 
	count BIGINT NOT NULL, 
	PRIMARY KEY (day, domain, hash)
)
 WITHOUT ROWID

;
CREATE INDEX journal_received ON journal (received);
CREATE INDEX journal_id ON journal (id);
CREATE INDEX quarantine_changed ON quarantine (content, changed);
CREATE INDEX quarantine_content ON quarantine (content, held_at, size);
CREATE INDEX quarantine_state ON quarantine (state, id);
CREATE INDEX quarantine_reasons_name ON quarantine_reasons (name, item);
CREATE INDEX quarantine_orders_batch ON quarantine_orders (batch);
CREATE INDEX quarantine_orders_due ON quarantine_orders (due);
CREATE INDEX spent_tokens_expires ON spent_tokens (expires);
CREATE INDEX release_tokens_item ON release_tokens (item);
CREATE INDEX audit_item ON audit (item);
CREATE INDEX samples_source ON samples (source, time);
CREATE INDEX samples_near1 ON samples (near1);
CREATE INDEX samples_near0 ON samples (near0);
CREATE INDEX samples_digest ON samples (digest);
CREATE INDEX samples_near2 ON samples (near2);
CREATE INDEX samples_owner ON samples (owner, state, number);
CREATE INDEX samples_state ON samples (state, number);
CREATE INDEX samples_near3 ON samples (near3);
CREATE INDEX queue_messages_created ON queue_messages (created);
CREATE INDEX queue_recipients_item ON queue_recipients (item);
CREATE INDEX queue_recipients_due ON queue_recipients (state, next_attempt);
CREATE INDEX logins_person ON logins (person);
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
COMMIT;
